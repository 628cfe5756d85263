"""Evaluating many subnetworks of one supernet, as it is or after a few steps of fine-tuning each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.checkpoint import Trained
from nas.data import Batch, Batches, class_weights
from nas.errors import DivergedError, SettingError, require
from nas.seeds import derive
from nas.settings import SGDSettings, TrainSettings
from nas.space import Architecture, SearchSpace, in_order
from nas.train import EvalResult, GatedOptimizer, Loss, TrainStep, learning_rate, read_steps
from nas.train.evaluation.prefix import PrefixWalk
from nas.train.evaluation.subnetworks import result_of


class Evaluator:
    """Accuracy and loss of subnetworks, each what :func:`nas.train.evaluate` finds for it alone.

    Subnetworks that begin alike share that part of the work, BatchNorm calibration included, where the supernet is a
    :class:`~nas.space.Chained` one, or a :class:`~nas.nn.GatedModel` that can be cut into pieces; on one thread the
    results are the same bit for bit. So it pays to ask for many at once, or for a few at a time in lexicographic order.

    Args:
        supernet: evaluated as it is now, on a private copy.
        space: of the supernet.
        batches: what to evaluate on, ``(x, y)``, at least one.
        calibration: training batches to estimate BatchNorm statistics on, for each subnetwork; None takes the running
            statistics as they are.
        precision: ``float32``, or ``bf16`` for autocast.
        memory_bytes: the most memory for the activations that subnetworks share, as long as the evaluator lives. Less
            memory costs time and changes nothing else.
        finetune: what is done to each subnetwork before its evaluation; no work is shared then.
        by_batch: BatchNorm normalises each batch by that batch; ``calibration`` is not looked at. Cheaper, and good
            enough to compare subnetworks on the same batches.

    Attributes:
        remark: of a ``GatedModel``, whether its subnetworks share work, and why they do not; else empty.

    Raises:
        SpaceError: the supernet is ``Chained`` and breaks what it promises.
    """

    def __init__(
        self,
        supernet: nn.Module,
        space: SearchSpace,
        batches: Sequence[Batch],
        calibration: Sequence[Batch] | None,
        *,
        precision: str = "float32",
        memory_bytes: int = 1 << 30,
        finetune: Finetune | None = None,
        by_batch: bool = False,
    ) -> None:
        assert batches, "there is nothing to evaluate on"
        self.space, self.finetune, self._precision, self._tuned = space, finetune, precision, 0
        self._how = batches, calibration, precision, memory_bytes, by_batch
        self._model = copy.deepcopy(supernet).eval()
        self._walk = PrefixWalk(self._model, space if finetune is None else None, *self._how)
        self._labels, self.remark = torch.cat(self._walk.labels), self._walk.remark

    @classmethod
    def of(
        cls,
        trained: Trained,
        split: str = "val",
        memory_bytes: int = 1 << 30,
        recalibrate: bool | None = None,
        finetune: Finetune | None = None,
        images: int | None = None,
        recalibrate_images: int | None = None,
    ) -> Evaluator:
        """An evaluator of a trained supernet, on the images of its run and in the same way.

        Args:
            trained: the supernet.
            split: ``val``, ``train`` or ``test``; choose on ``val``, and keep ``test`` for the final figure.
            memory_bytes: as in the class.
            recalibrate: estimate BatchNorm statistics for each subnetwork; None does as the run did.
            finetune: as in the class; ``Finetune.of(trained, steps, lr)`` makes one.
            images: of the split, at most, 0 for all; None takes as many as the run does.
            recalibrate_images: training images for BatchNorm statistics, at most; None takes as many as the run does.

        Raises:
            SettingError: there is no such split, or it has no images.
            SpaceError: as in the class.
        """
        if split not in ("train", "val", "test") or not trained.held_out(split, images):
            rule = "must be train, val or test, and have images"
            raise SettingError("search.split", split, rule, "write search.split=val, or train with data.val_fraction")
        if recalibrate is None:
            recalibrate = trained.settings.evaluate.recalibrate
        return cls(
            trained.supernet,
            trained.space,
            trained.batches(trained.held_out(split, images)),
            trained.calibration(recalibrate_images) if recalibrate else None,
            precision=trained.settings.train.way.precision,
            memory_bytes=memory_bytes,
            finetune=finetune,
        )

    @property
    def shares_prefixes(self) -> bool:
        """Whether subnetworks that begin alike share that part of the work."""
        return self._walk.shares

    @property
    def images(self) -> int:
        """How many images are evaluated on."""
        return len(self._labels)

    @property
    def block_evaluations(self) -> int:
        """Slots that were run over all images so far; calibration and evaluation together count as one."""
        return self._tuned + self._walk.block_evaluations

    def __call__(self, architectures: Iterable[Architecture]) -> Iterator[EvalResult]:
        """Evaluate each distinct architecture once, in lexicographic order, and yield each result at once.

        Raises:
            ArchitectureError: one does not fit the space; none has been evaluated then.
            DivergedError: a loss is not a finite number. The iterator can go on with the next architecture.
        """
        return map(self._result, self._logits(architectures))  # a generator that has raised would be at its end

    def by_image(self, architectures: Iterable[Architecture]) -> dict[Architecture, Tensor]:
        """For each architecture float64 ``(2, images)``: the cross-entropy, and 1 where the prediction is wrong.

        Raises:
            ArchitectureError: one does not fit the space; none has been evaluated then.
        """
        found = dict[Architecture, Tensor]()
        for architecture, logits in self._logits(architectures):
            z = torch.cat([*logits]).double()
            found[architecture] = torch.stack(
                [F.cross_entropy(z, self._labels, reduction="none"), (z.argmax(dim=1) != self._labels).double()]
            )
        return found

    def _logits(self, architectures: Iterable[Architecture]) -> Iterator[tuple[Architecture, Sequence[Tensor]]]:
        order = sorted(map(self.space.validate, dict.fromkeys(architectures)), key=in_order)
        return self._walk.logits(order) if self.finetune is None else map(self._fine_tuned, order)

    def _fine_tuned(self, architecture: Architecture) -> tuple[Architecture, Sequence[Tensor]]:
        assert self.finetune is not None
        model = self.finetune(self._model, architecture, self._precision)
        self._tuned += len(architecture)
        return next(PrefixWalk(model, None, *self._how).logits([architecture]))

    def _result(self, of: tuple[Architecture, Sequence[Tensor]]) -> EvalResult:
        found = result_of(*of, self._walk.labels)
        if not math.isfinite(found.loss):
            rule = f"its loss on the evaluated images is {found.loss}"
            remedy = "train the supernet again" if self.finetune is None else "lower search.finetune_lr"
            raise DivergedError("architecture", self.space.encode(found.architecture), rule, remedy)
        return found


@dataclass(frozen=True, eq=False)
class Finetune:
    """Some steps of SGD from the supernet's weights, along half a cosine from ``lr`` down to 0.

    Every candidate sees the same batches in the same order, so that the comparison is paired. The learning rate ends
    at 0 because a last step at a constant rate would leave its noise in what is compared.

    Args:
        steps: updates of each candidate.
        lr: learning rate of the first update.
        batch: gives the training batch of step 0, 1, ..., for example ``nas.data.Batches.batch``; always the same one
            for the same step.
        sgd: momentum and weight decay; its own learning rate is ignored.
        label_smoothing, clip_norm: as in training.
        seed: of what layers such as dropout draw.
        class_weights: as in training.
    """

    steps: int
    lr: float
    batch: Callable[[int], Batch]
    sgd: SGDSettings = field(default_factory=SGDSettings)
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    seed: int = 0
    class_weights: Tensor | None = None

    def __post_init__(self) -> None:
        rule, remedy = "must be at least 1", "write 0 for no fine-tuning at all, and pass no Finetune"
        require(self.steps >= 1, "search.finetune_steps", self.steps, rule, remedy)
        rule, remedy = "must be above 0 and finite", "write for example search.finetune_lr=0.01"
        require(0 < self.lr < float("inf"), "search.finetune_lr", self.lr, rule, remedy)

    @classmethod
    def of(cls, trained: Trained, steps: int, lr: float) -> Finetune:
        """Fine-tuning on the training images of ``trained``, batched and augmented as there, in another order.

        Momentum and weight decay are the run's if it used SGD, else the defaults: Adam's mean something else. Nothing
        of the run that is somebody's own is called: the loss is the cross-entropy, and such augmentations are left out.

        Raises:
            SettingError: the steps or the learning rate are out of range.
        """
        settings, train = trained.settings, trained.settings.train
        ours = [name for name in settings.data.augment if name not in settings.data.own_functions]
        plain = replace(settings, data=replace(settings.data, augment=ours))
        batches = Batches.of(trained.splits, plain, "finetune")
        sgd = settings.optimizer if isinstance(settings.optimizer, SGDSettings) else SGDSettings()
        weights = class_weights(trained.splits.train) if train.class_weights == "balanced" else None
        return cls(steps, lr, batches.batch, sgd, train.label_smoothing, train.clip_norm, settings.seed, weights)

    def __call__(self, supernet: nn.Module, architecture: Architecture, precision: str = "float32") -> nn.Module:
        """A copy of ``supernet`` in which ``architecture`` is fine-tuned, in eval mode; leaves ``supernet`` unchanged.

        Raises:
            DivergedError: a loss on the way is not a finite number.
        """
        model = copy.deepcopy(supernet).train()
        optimizer = GatedOptimizer(model, self.sgd, self.clip_norm)
        train_step = TrainStep(
            model, optimizer, Loss(self.label_smoothing, precision, class_weights=self.class_weights)
        )
        schedule = TrainSettings(schedule="cosine", warmup_epochs=0)
        with torch.enable_grad(), self._seeded():
            rates = [learning_rate(schedule, self.lr, step, self.steps, self.steps) for step in range(self.steps)]
            made = [train_step(self.batch(step), (architecture,), lr, step) for step, lr in enumerate(rates)]
            try:
                read_steps(made)
            except DivergedError as error:
                rule = f"{error.rule} of its fine-tuning"
                raise DivergedError("search.finetune_lr", self.lr, rule, "lower it") from None
        return model.eval()

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(self.seed, "finetune"))  # torch.manual_seed reseeds CUDA too
            yield
