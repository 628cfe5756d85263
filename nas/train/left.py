"""What a training run does beside its steps, for the time that it still takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.track.left import Beside, TimeLeft
from nas.train.evaluation import architectures_to_evaluate

if TYPE_CHECKING:
    from nas.train.run import Run

EVALUATION, CHECKPOINT, IMAGE = "evaluation", "checkpoint", "image"


def time_left(run: Run) -> TimeLeft:
    """The evaluations, the report on test images, which is one more, the checkpoints, and the images of the supernet.

    Until an evaluation was seen, an image of it takes a third of the time of one that is trained on: there is no
    backward pass.
    """
    how, splits, due = run.settings.evaluate, run.splits, run.validation_due
    calibration = min(how.recalibrate_images, len(splits.train)) if how.recalibrate else 0
    val = min(how.images or len(splits.val), len(splits.val)) + calibration
    report = (len(splits.test) + calibration) / val
    subnetworks = len(architectures_to_evaluate(run.gate, how.rounds))
    a_step = run.settings.train.batch_size * len(run.paths()[0]) / run.world.size

    def images_left(step: int) -> int:
        done, last = step // due.steps, step // due.steps + due.left(step)
        powers = sum(done < 2**k < last for k in range(last.bit_length()))
        return powers + 1 if run.tracker.writer.take_images else 0

    return TimeLeft(
        run.step,
        run.total_steps,
        {
            EVALUATION: Beside(lambda step: due.left(step) + report, subnetworks * val / 3 / a_step),
            CHECKPOINT: Beside(run.save_due.left),
            IMAGE: Beside(images_left),
        },
    )
