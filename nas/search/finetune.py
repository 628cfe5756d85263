"""Fine-tuning a candidate for a few steps before it is judged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from nas.data import Batch, Batches
from nas.errors import DivergedError, require
from nas.seeds import derive
from nas.settings import SGDSettings, TrainSettings
from nas.space import Architecture
from nas.train import GatedOptimizer, Loss, Trained, TrainStep, learning_rate


@dataclass(frozen=True, eq=False)
class Finetune:
    """Some steps of SGD from the supernet's weights, along half a cosine from ``lr`` down to 0.

    Every candidate sees the same batches in the same order, so that the comparison is paired. The learning rate
    ends at 0 because a last step at a constant rate would leave its noise in what is compared.

    Args:
        steps: updates a candidate gets.
        lr: learning rate of the first.
        batch: the training batch of step 0, 1, ..., such as ``nas.data.Batches.batch``; the same one when asked again.
        sgd: momentum and weight decay; its own learning rate is not looked at.
        label_smoothing, clip_norm: as in training.
        seed: of what layers such as dropout draw.
    """

    steps: int
    lr: float
    batch: Callable[[int], Batch]
    sgd: SGDSettings = field(default_factory=SGDSettings)
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        rule, remedy = "must be at least 1", "write 0 for no fine-tuning at all, and pass no Finetune"
        require(self.steps >= 1, "search.finetune_steps", self.steps, rule, remedy)
        rule, remedy = "must be above 0 and finite", "write for example search.finetune_lr=0.01"
        require(0 < self.lr < float("inf"), "search.finetune_lr", self.lr, rule, remedy)

    @classmethod
    def of(cls, trained: Trained, steps: int, lr: float) -> Finetune:
        """On the training pictures of ``trained``, batched and augmented as there but in an order of their own.

        Momentum and weight decay are the run's where it used SGD, else the usual ones: Adam's mean something else.

        Raises:
            SettingError: the steps or the learning rate are out of range.
        """
        settings, splits = trained.settings, trained.splits
        train = settings.train
        how = (settings.data, train.batch_size, settings.seed, "cpu", train.channels_last)
        batches = Batches(splits.train, splits.mean, splits.std, *how, stream="finetune")
        sgd = settings.optimizer if isinstance(settings.optimizer, SGDSettings) else SGDSettings()
        return cls(steps, lr, batches.batch, sgd, train.label_smoothing, train.clip_norm, settings.seed)

    def __call__(self, supernet: nn.Module, architecture: Architecture, precision: str = "float32") -> nn.Module:
        """A copy of ``supernet`` in which ``architecture`` is fine-tuned; ``supernet`` itself stays as it is.

        Raises:
            DivergedError: a loss on the way is not finite.
        """
        model = copy.deepcopy(supernet).train()
        optimizer = GatedOptimizer(model, self.sgd, self.clip_norm)
        train_step = TrainStep(model, optimizer, Loss(self.label_smoothing, precision))
        schedule = TrainSettings(schedule="cosine", warmup_epochs=0)
        with torch.enable_grad(), self._seeded():
            for step in range(self.steps):
                lr = learning_rate(schedule, self.lr, step, self.steps, self.steps)
                try:
                    train_step(self.batch(step), (architecture,), lr, step)
                except DivergedError as error:
                    rule = f"{error.rule} of its fine-tuning"
                    raise DivergedError("search.finetune_lr", self.lr, rule, "lower it") from None
        return model.eval()

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(self.seed, "finetune"))  # torch.manual_seed reseeds CUDA too
            yield
