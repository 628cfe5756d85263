"""What a tracker collects, as a checkpoint keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Window:
    """Sums over the steps since the last :meth:`Tracker.log`."""

    steps: int = 0
    loss: float = 0.0
    correct: int = 0
    images: int = 0
    step_s: float = 0.0
    data_s: float = 0.0


@dataclass
class Epoch:
    """The losses since the last evaluation, or those before it until a step follows."""

    steps: int = 0
    loss: float = 0.0
    over: bool = False

    def add(self, loss: float) -> None:
        """Take note of a step's loss; the first one after an evaluation begins anew."""
        if self.over:
            self.steps, self.loss, self.over = 0, 0.0, False
        self.steps += 1
        self.loss += loss


@dataclass
class State:
    """What a checkpoint keeps of a tracker."""

    counts: list[list[int]]
    run_images: int
    run_s: float
    evaluations: int
    window: Window
    accuracies: list[list[float]]
    step_s: list[list[float]]
    grad_norms: list[list[float]]
    epoch: Epoch = field(default_factory=Epoch)  # which older checkpoints have not
