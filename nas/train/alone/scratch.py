"""One subnetwork trained from scratch: the ground truth that a supernet's ranking is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from nas.data import Batches, ImageSet, Ordered, Splits
from nas.seeds import seed_layers
from nas.settings import TrainRunSettings
from nas.space import Architecture, SearchSpace
from nas.train.evaluation.subnetworks import EvalResult, evaluate
from nas.train.result import StepResult, read_steps
from nas.train.schedule import learning_rate
from nas.train.step import Loss, TrainStep
from nas.train.update.optimize import GatedOptimizer


@dataclass
class LearningCurve:
    """What a training has shown after each of its epochs.

    Attributes:
        train_losses: the mean training loss of the epoch's steps.
        val_accuracies: the accuracy on the validation images, 0 to 1.
    """

    train_losses: list[float] = field(default_factory=list)
    val_accuracies: list[float] = field(default_factory=list)


def train_from_scratch(
    settings: TrainRunSettings,
    space: SearchSpace,
    splits: Splits,
    architecture: Architecture,
    curve: LearningCurve | None = None,
) -> EvalResult:
    """Train ``architecture`` as ``nas-train gate=fixed`` does, but without files, and evaluate it on the test images.

    On the CPU the same settings give the same weights as there, bit for bit. The evaluation uses the running BatchNorm
    statistics, which a network that is trained alone has to itself.

    Args:
        settings: the settings of the run; those of the gate, the evaluation and tracking are ignored.
        space: ``build_space(settings.space, ...)`` for the images of ``splits``.
        splits: ``load_splits(settings.data, settings.seed)``.
        curve: gets a point an epoch, for which the validation images are looked at; they change no weight.

    Raises:
        DivergedError: the loss stopped being finite.
    """
    train, seed = settings.train, settings.seed
    memory_format = torch.channels_last if train.way.channels_last else torch.preserve_format
    supernet = space.supernet(seed).to(memory_format=memory_format)
    optimizer = GatedOptimizer(supernet, settings.optimizer, train.clip_norm, train.ema_decay)
    train_step = TrainStep(supernet, optimizer, Loss.of(train, splits.train))
    batches = Batches.of(splits, settings)
    total = train.epochs * batches.steps_per_epoch
    made = list[StepResult]()

    def evaluated(images: ImageSet) -> EvalResult:
        images_of = Ordered(images, splits.mean, splits.std, 256, "cpu", train.way.channels_last)
        averages, precision = optimizer.averages(), train.way.precision
        return evaluate(supernet, [architecture], images_of, weights=averages, precision=precision)[0]

    for step in range(total):
        lr = learning_rate(train, settings.optimizer.lr, step, total, batches.steps_per_epoch)
        seed_layers(torch.device("cpu"), seed, step, 0)  # as in a run
        made.append(train_step(batches.batch(step), (architecture,), lr, step))
        if len(made) == batches.steps_per_epoch:
            losses = [figures.loss for figures in read_steps(made)]
            made.clear()
            if curve is not None:
                curve.train_losses.append(sum(losses) / len(losses))
                curve.val_accuracies.append(evaluated(splits.val).accuracy)
    return evaluated(splits.test)
