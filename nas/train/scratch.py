"""One subnetwork trained by itself from scratch: the truth that a supernet's ranking is held against."""

from __future__ import annotations

import torch

from nas.data import Batches, Splits, ordered
from nas.seeds import seed_layers
from nas.settings import TrainRunSettings
from nas.space import Architecture, SearchSpace
from nas.train.evaluation import EvalResult, evaluate
from nas.train.optimize import GatedOptimizer, learning_rate
from nas.train.step import Loss, TrainStep


def train_from_scratch(
    settings: TrainRunSettings, space: SearchSpace, splits: Splits, architecture: Architecture
) -> EvalResult:
    """Train ``architecture`` as ``nas-train gate=fixed`` does, but without files, and judge it on the test pictures.

    The same settings give the same weights as there on the CPU, bit for bit. The running BatchNorm statistics are what
    is judged: a network that was trained alone has its own.

    Args:
        settings: of the run; the gate, the evaluation and what is tracked are not looked at.
        space: ``build_space(settings.space, ...)`` for the pictures of ``splits``.
        splits: ``load_splits(settings.data, settings.seed)``.

    Raises:
        DivergedError: the loss stopped being finite.
    """
    train, seed = settings.train, settings.seed
    memory_format = torch.channels_last if train.channels_last else torch.preserve_format
    supernet = space.supernet(seed).to(memory_format=memory_format)
    optimizer = GatedOptimizer(supernet, settings.optimizer, train.clip_norm, train.ema_decay)
    train_step = TrainStep(supernet, optimizer, Loss(train.label_smoothing, train.precision))
    stream = (settings.data, train.batch_size, seed, "cpu", train.channels_last)
    batches = Batches(splits.train, splits.mean, splits.std, *stream)
    total = train.epochs * batches.steps_per_epoch
    for step in range(total):
        lr = learning_rate(train, settings.optimizer.lr, step, total, batches.steps_per_epoch)
        seed_layers(torch.device("cpu"), seed, step, 0)  # as in a run
        train_step(batches.batch(step), (architecture,), lr, step)
    test = list(ordered(splits.test, splits.mean, splits.std, 256, "cpu", train.channels_last))
    weights = None
    if optimizer.average:
        weights = {name: optimizer.average[p] for name, p in supernet.named_parameters() if p in optimizer.average}
    return evaluate(supernet, [architecture], test, weights=weights, precision=train.precision)[0]
