"""What a person who waits for a run sees."""

from __future__ import annotations

from rich.console import Console

from nas.console import ProgressBar, new_console
from nas.track.tracker import Tracker


class Progress(ProgressBar):
    """A bar with images/s and time left on a terminal, and a line an evaluation everywhere.

    Args:
        total_steps: of the run.
        steps_per_epoch: of the run.
        step: where it starts.
        shown: False prints nothing at all.
        console: where to; standard output if not given.
    """

    def __init__(
        self, total_steps: int, steps_per_epoch: int, step: int, shown: bool, console: Console | None = None
    ) -> None:
        super().__init__("training", total_steps, step, shown, console or new_console(quiet=not shown))
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self._loss: float | None = None  # of the last step of this process

    def advance(self, step: int, loss: float, tracker: Tracker) -> None:
        """Note that ``step`` steps have been made."""
        self._loss = loss
        if self.is_due(step):
            self.update(step, f"loss {loss:.3f}  {tracker.images_per_s():,.0f} images/s")

    def epoch(self, step: int, mean: float, best: float, tracker: Tracker) -> None:
        """Print a line for an evaluation: mean and best accuracy of the evaluated subnetworks, 0 to 1."""
        epoch, epochs = step / self.steps_per_epoch, self.total_steps // self.steps_per_epoch
        loss = "" if self._loss is None else f"loss {self._loss:.3f}  "
        accuracy = f"val accuracy {mean:.1%} (best {best:.1%})"
        self.console.print(f"epoch {epoch:.4g}/{epochs}  {loss}{accuracy}  {tracker.images_per_s():,.0f} images/s")
