"""What a person who waits for a run sees."""

from __future__ import annotations

from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from nas.track.tracker import Tracker

REFRESH_S = 0.2


class Progress:
    """A bar with images/s and time left on a terminal, and a line an evaluation everywhere.

    Args:
        total_steps, steps_per_epoch: of the run.
        step: where it starts.
        shown: False prints nothing at all.
        console: where to; standard output if not given.
    """

    def __init__(
        self, total_steps: int, steps_per_epoch: int, step: int, shown: bool, console: Console | None = None
    ) -> None:
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.console = console or Console(quiet=not shown)
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not shown or not self.console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=total_steps, completed=step, speed="")
        self._next = 0.0
        self._loss: float | None = None  # of the last step of this process

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, step: int, loss: float, tracker: Tracker) -> None:
        """Note that ``step`` steps have been made, and redraw now and then: drawing must not slow training down."""
        self._loss = loss
        now = perf_counter()
        if now >= self._next or step == self.total_steps:
            self._next = now + REFRESH_S
            self._bar.update(
                self._task, completed=step, speed=f"loss {loss:.3f}  {tracker.images_per_s():,.0f} images/s"
            )

    def epoch(self, step: int, mean: float, best: float, tracker: Tracker) -> None:
        """Print a line for an evaluation: mean and best accuracy of the judged subnetworks, 0 to 1."""
        epoch, epochs = step / self.steps_per_epoch, self.total_steps // self.steps_per_epoch
        speed = f"{tracker.images_per_s():,.0f} images/s"
        accuracy = f"val accuracy {mean:.1%} (best {best:.1%})"
        loss = "" if self._loss is None else f"loss {self._loss:.3f}  "
        line = f"epoch {epoch:.4g}/{epochs}  {loss}{accuracy}  {speed}"
        self.console.print(line, highlight=False, soft_wrap=True)
