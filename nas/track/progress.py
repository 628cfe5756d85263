"""What a person who waits for a run sees."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from nas.console import ProgressBar, new_console
from nas.track.left import TimeLeft
from nas.track.tags import BEST_ACCURACY, MEAN_ACCURACY, TRAIN_LOSS, VAL_LOSS
from nas.track.tracker import Tracker


class Progress(ProgressBar):
    """A bar with images/s and time left on a terminal, and a line an evaluation everywhere.

    Args:
        total_steps: of the run.
        steps_per_epoch: of the run.
        step: where it starts.
        shown: False prints nothing at all.
        console: where to; standard output if not given.
        left: estimates the time left; by the steps alone if not given.
    """

    def __init__(
        self,
        total_steps: int,
        steps_per_epoch: int,
        step: int,
        shown: bool,
        console: Console | None = None,
        left: TimeLeft | None = None,
    ) -> None:
        super().__init__("training", total_steps, step, shown, console or new_console(quiet=not shown))
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.left = left or TimeLeft(step, total_steps)

    def advance(self, step: int, tracker: Tracker) -> None:
        """Note that ``step`` steps have been made.

        The loss that is shown is the mean since the last evaluation, of the steps that the tracker knows of.
        """
        if self.is_due(step):
            loss = tracker.epoch_loss()
            news = "" if loss is None else f"loss {loss:.3f}  {tracker.images_per_s():,.0f} images/s"
            self.update(step, news, self.left.seconds(step))

    def epoch(self, step: int, values: Mapping[str, float], tracker: Tracker) -> None:
        """Print a line for an evaluation, with what :meth:`Tracker.evaluated` returned."""
        epoch, epochs = step / self.steps_per_epoch, self.total_steps // self.steps_per_epoch
        losses = f"loss {values[TRAIN_LOSS]:.3f}  val loss {values[VAL_LOSS]:.3f}"
        accuracy = f"val accuracy {values[MEAN_ACCURACY]:.1%} (best {values[BEST_ACCURACY]:.1%})"
        self.console.print(f"epoch {epoch:.4g}/{epochs}  {losses}  {accuracy}  {tracker.images_per_s():,.0f} images/s")
