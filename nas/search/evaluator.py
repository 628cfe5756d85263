"""Evaluating many subnetworks of one supernet that no longer changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import Batch
from nas.errors import DivergedError, SettingError
from nas.nn import indices_of
from nas.search.finetune import Finetune
from nas.search.prefix import PrefixWalk
from nas.space import Architecture, Chained, SearchSpace
from nas.train import EvalResult, Trained, evaluate


class Evaluator:
    """Accuracy and loss of subnetworks, each what :func:`nas.train.evaluate` finds for it alone.

    Where the supernet is :class:`~nas.space.Chained`, subnetworks that begin alike share that work, calibration of
    BatchNorm included; on one thread the results are the same bit for bit. So it pays to ask for many at once, or
    for few at a time in lexicographic order.

    Args:
        supernet: judged as it is now, on a private copy.
        space: of the supernet.
        batches: what to judge on, ``(x, y)``, at least one.
        calibration: training pictures to estimate BatchNorm statistics on, anew for each subnetwork; None takes
            the running statistics as they are.
        precision: ``float32``, or ``bf16`` for autocast.
        memory_bytes: how much of the activations that subnetworks share is kept at most, as long as the evaluator
            lives. Less memory costs time and changes nothing else.
        finetune: what is done to each subnetwork before it is judged; none of the work is shared then.

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
    ) -> None:
        assert batches, "there is nothing to judge on"
        self.space, self.finetune, self._precision = space, finetune, precision
        self._batches, self._calibration = batches, calibration
        self._model = copy.deepcopy(supernet).eval()
        self._walk: PrefixWalk | None = None
        if isinstance(self._model, Chained) and finetune is None:
            self._walk = PrefixWalk(self._model, space, batches, calibration, precision, memory_bytes)
        self._evaluated_alone = 0

    @classmethod
    def of(
        cls,
        trained: Trained,
        split: str = "val",
        memory_bytes: int = 1 << 30,
        recalibrate: bool | None = None,
        finetune: Finetune | None = None,
    ) -> Evaluator:
        """For a supernet out of a checkpoint, on the pictures and in the way of its run.

        Args:
            trained: the supernet.
            split: ``val``, ``train`` or ``test``; the last is for the last word, not for choosing.
            memory_bytes: as in the class.
            recalibrate: estimate BatchNorm statistics anew for each subnetwork; None does as the run did.
            finetune: as in the class; ``Finetune.of(trained, steps, lr)`` makes one.

        Raises:
            SettingError: there is no such split, or it has no pictures.
            SpaceError: as in the class.
        """
        parts = {"train": trained.splits.train, "val": trained.splits.val, "test": trained.splits.test}
        if not parts.get(split):
            rule = "must be train, val or test, and have pictures"
            raise SettingError("search.split", split, rule, "write search.split=val, or train with data.val_fraction")
        if recalibrate is None:
            recalibrate = trained.settings.evaluate.recalibrate
        return cls(
            trained.supernet,
            trained.space,
            trained.batches(parts[split]),
            trained.calibration() if recalibrate else None,
            precision=trained.settings.train.precision,
            memory_bytes=memory_bytes,
            finetune=finetune,
        )

    @property
    def shares_prefixes(self) -> bool:
        """Whether subnetworks that begin alike share that work."""
        return self._walk is not None

    @property
    def block_evaluations(self) -> int:
        """Slots that have been run over all pictures so far, calibration and judging together counted as one."""
        return self._evaluated_alone if self._walk is None else self._walk.block_evaluations

    def __call__(self, architectures: Iterable[Architecture]) -> Iterator[EvalResult]:
        """Judge each distinct architecture once; each is given as soon as it is judged, in lexicographic order.

        Raises:
            ArchitectureError: one does not fit the space; none has been judged then.
            DivergedError: a loss is not a finite number. Asked again, the iterator goes on with the next one.
        """
        order = sorted(map(self.space.validate, dict.fromkeys(architectures)), key=_indices)
        if self._walk is None:  # maps, because a generator that has raised is at its end
            return map(self._alone, order)
        return map(self._shared, self._walk.logits(order))

    def _shared(self, found: tuple[Architecture, list[Tensor]]) -> EvalResult:
        return self._finite(judgement(*found, self._batches))

    def _alone(self, architecture: Architecture) -> EvalResult:
        model = self._model
        if self.finetune is not None:
            model = self.finetune(model, architecture, self._precision)
        self._evaluated_alone += len(architecture)
        return self._finite(evaluate(model, [architecture], self._batches, self._calibration, None, self._precision)[0])

    def _finite(self, found: EvalResult) -> EvalResult:
        if not math.isfinite(found.loss):
            rule = f"its loss on the judged pictures is {found.loss}"
            remedy = "train the supernet again" if self.finetune is None else "lower search.finetune_lr"
            raise DivergedError("architecture", self.space.encode(found.architecture), rule, remedy)
        return found


def judgement(architecture: Architecture, logits: Iterable[Tensor], batches: Iterable[Batch]) -> EvalResult:
    """What :func:`nas.train.evaluate` says where the network gives ``logits`` for ``batches``."""
    correct, loss, count = 0, 0.0, 0
    for z, (_, y) in zip(logits, batches, strict=True):
        z = z.float()
        correct += int((z.argmax(dim=1) == y).sum())
        loss += float(F.cross_entropy(z, y, reduction="sum"))
        count += len(y)
    return EvalResult(architecture, correct / count, loss / count)


def _indices(architecture: Architecture) -> tuple[tuple[int, ...], ...]:
    return tuple(map(indices_of, architecture))
