"""What the steps of a training have found: it stays on the device until somebody has to know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from time import perf_counter

import torch
from torch import Tensor

from nas.errors import DivergedError
from nas.nn.compiled import compile_s
from nas.space import Architecture
from nas.track import Tracker

Norms = dict[tuple[int, int], Tensor]
"""The gradient norm of each branch that ran and has parameters, by (slot, choice)."""

Mark = float | torch.cuda.Event
"""A point in time: seconds, or an event of a GPU, which computes later than it is told to."""


@dataclass(eq=False)
class StepResult:
    """What a step has found: tensors on its device, which :func:`read_steps` reads, of many steps at once.

    Attributes:
        step: its number.
        lr: its learning rate.
        paths: that this process has run.
        all_paths: of all processes.
        figures: ``(2 * paths,)`` or more: for each path the loss, a mean over the images of all processes; then for
            each the number of right predictions. The larger class of a mixed image is right.
        own: the same of this process alone.
        marks: when the first path began, and when each ended: seconds, or events of a GPU.
        grad_norms: in the steps that measure them.
        asked: how many processes were asked to stop, on the CPU; None in a single one.
    """

    step: int
    lr: float
    paths: Sequence[Architecture]
    all_paths: Sequence[Architecture]
    figures: Tensor
    own: Tensor
    marks: Sequence[Mark]
    grad_norms: Norms | None = None
    asked: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The mean over the paths, and over the images of all processes: a scalar."""
        return self.figures[: len(self.paths)].mean()

    @property
    def correct(self) -> Tensor:
        """The number of right predictions, over all paths and processes: a scalar."""
        return self.figures[len(self.paths) : 2 * len(self.paths)].sum()

    def stopped(self) -> bool:
        """Whether any of several processes was asked to stop.

        Of a GPU ask when the next step is under way: it has sent the answer by then, or works while it is waited for.
        """
        if self.asked is None:
            return False
        if isinstance(self.marks[-1], torch.cuda.Event):
            self.marks[-1].synchronize()
        return bool(self.asked)


@dataclass(frozen=True)
class Figures:
    """What a step has found, as plain numbers; see :class:`StepResult`.

    Attributes:
        path_s: seconds of forward and backward of each path of this process.
    """

    loss: float
    correct: int
    path_s: list[float]
    grad_norms: dict[tuple[int, int], float]


def read_steps(results: Sequence[StepResult]) -> list[Figures]:
    """Read what steps have found in one transfer, for which a GPU has to be waited for.

    Raises:
        DivergedError: a loss is not finite; the first of them is told. Weights, moments and averages are those before
            that step: all later ones were held back.
    """
    found = []
    parts = [t.view(-1) for result in results for t in (result.figures, *(result.grad_norms or {}).values())]
    numbers = iter(torch.cat(parts).tolist() if parts else ())
    for result in results:
        figures, number = list(islice(numbers, len(result.figures))), len(result.paths)
        losses, loss = figures[:number], sum(figures[:number]) / number
        if not all(map(math.isfinite, losses)):
            same = len(result.paths) == len(result.all_paths)
            known = zip(result.paths, losses if same else result.own.tolist(), strict=False)
            bad = [f"path {path}" for path, value in known if not math.isfinite(value)]
            rule = f"the loss is {loss} at step {result.step} on {bad[0] if bad else 'a path of another process'}"
            raise DivergedError("optimizer.lr", f"{result.lr:.3g}", rule, "lower it, or set train.clip_norm=1")
        correct = round(sum(figures[number : 2 * number]))
        path_s = [seconds_between(*pair) for pair in islice(pairwise(result.marks), number)]
        found.append(Figures(loss, correct, path_s, dict(zip(result.grad_norms or {}, numbers, strict=False))))
    return found


class Unread:
    """The steps of a run whose results nobody has read yet, with the seconds that they took.

    Args:
        batch_size: images a path, of all processes together.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size, self._compiled_s = batch_size, compile_s()
        self._steps: list[tuple[StepResult, float, float, bool]] = []

    def add(self, result: StepResult, data_s: float, step_s: float) -> None:
        """Keep the result of a step that took ``step_s`` seconds, compiling included, and ``data_s`` for its batch."""
        compiling, self._compiled_s = compile_s() - self._compiled_s, compile_s()
        self._steps.append((result, data_s, step_s - compiling, compiling > 0))

    def read_into(self, tracker: Tracker) -> None:
        """Read all of them in one go and let ``tracker`` count them.

        The seconds of a step are of a GPU those in which it was told what to do. What it is waited for here is added.

        Raises:
            DivergedError: as of :func:`read_steps`, and from then on in each call.
        """
        began = perf_counter()
        found = self.check()
        steps, self._steps = self._steps, []
        waited = (perf_counter() - began) / max(len(steps), 1)
        for (result, data_s, step_s, compiled), figures in zip(steps, found, strict=True):
            own = len(result.paths)
            tracker.step(
                result.all_paths,
                loss=figures.loss,
                correct=figures.correct,
                images=self._batch_size * own,
                step_s=step_s + waited,
                data_s=data_s,
                path_s=figures.path_s if own == len(result.all_paths) and not compiled else None,
                grad_norms=figures.grad_norms,
            )

    def check(self, *more: StepResult) -> list[Figures]:
        """:func:`read_steps` of these steps and of ``more``; all stay unread."""
        return read_steps([*(result for result, *_ in self._steps), *more])


def mark(device: torch.device) -> Mark:
    """Now, in the work on ``device``."""
    if device.type != "cuda":
        return perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(first: Mark, second: Mark) -> float:
    """Seconds between two marks; a GPU must have got past them."""
    if isinstance(first, float) and isinstance(second, float):
        return second - first
    assert isinstance(first, torch.cuda.Event)
    assert isinstance(second, torch.cuda.Event)
    return float(first.elapsed_time(second)) / 1000
