"""What a person who waits for a run sees."""

from __future__ import annotations

from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from nas.track.tracker import Tracker

REFRESH_S = 0.2


class Bar(RichProgress):
    """A bar with news and the time left, on a terminal; nothing elsewhere.

    Args:
        what: is in progress, for example ``training``.
        total: number of steps.
        done: steps that were done before.
        console: where it is drawn.
        shown: False draws nothing at all.
    """

    def __init__(self, what: str, total: int, done: int, console: Console, shown: bool) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}"), TimeRemainingColumn())
        hidden = not (shown and console.is_terminal)
        super().__init__(TextColumn(what), *columns, TextColumn("left"), console=console, disable=hidden)
        self._task = self.add_task(what, total=total, completed=done, news="")

    def show(self, done: int, news: str) -> None:
        """Draw that ``done`` steps are done, with ``news`` beside the count."""
        self.update(self._task, completed=done, news=news)


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
        self._bar = Bar("training", total_steps, step, self.console, shown)
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
            self._bar.show(step, f"loss {loss:.3f}  {tracker.images_per_s():,.0f} images/s")

    def epoch(self, step: int, mean: float, best: float, tracker: Tracker) -> None:
        """Print a line for an evaluation: mean and best accuracy of the judged subnetworks, 0 to 1."""
        epoch, epochs = step / self.steps_per_epoch, self.total_steps // self.steps_per_epoch
        speed = f"{tracker.images_per_s():,.0f} images/s"
        accuracy = f"val accuracy {mean:.1%} (best {best:.1%})"
        loss = "" if self._loss is None else f"loss {self._loss:.3f}  "
        line = f"epoch {epoch:.4g}/{epochs}  {loss}{accuracy}  {speed}"
        self.console.print(line, highlight=False, soft_wrap=True)
