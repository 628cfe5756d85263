"""What a training run does beside its steps, for the time that it still takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.settings import EvaluateSettings
from nas.track.left import Beside, TimeLeft
from nas.train.evaluation.subnetworks import architectures_to_evaluate

if TYPE_CHECKING:
    from nas.train.run import Run

EVALUATION, CHECKPOINT, IMAGE = "evaluation", "checkpoint", "image"


def time_left(run: Run) -> TimeLeft:
    """The evaluations, of which the last one and the report's take more images, the checkpoints, and what is drawn.

    Until an evaluation was seen, an image of it takes a third of the time of one that is trained on: there is no
    backward pass.
    """
    how, splits, due = run.settings.evaluate, run.splits, run.validation_due

    def images(how: EvaluateSettings) -> tuple[int, int]:
        calibration = min(how.recalibrate_images, len(splits.train)) if how.recalibrate else 0
        return min(how.images or len(splits.val), len(splits.val)) + calibration, len(splits.test) + calibration

    (interim, _), (val, test) = images(how.interim), images(how)

    def evaluations_left(step: int) -> float:
        left = due.left(step)
        return (left > 0) * (left - 1 + val / interim) + test / interim

    subnetworks = len(architectures_to_evaluate(run.gate, how.rounds))
    a_step = run.settings.train.batch_size * len(run.paths()[0]) / run.world.size

    def images_left(step: int) -> int:
        done, last = step // due.steps, step // due.steps + due.left(step)
        powers = sum(done < 4**k < last for k in range(last.bit_length()))
        return powers + 1 if run.tracker.writer.take_images else 0

    return TimeLeft(
        run.step,
        run.total_steps,
        {
            EVALUATION: Beside(evaluations_left, subnetworks * interim / 3 / a_step),
            CHECKPOINT: Beside(run.save_due.left),
            IMAGE: Beside(images_left),
        },
    )
