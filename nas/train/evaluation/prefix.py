"""A walk through the subnetworks of a supernet that computes their common prefixes once.

The output of a piece of a :class:`~nas.space.Chained` supernet depends on the pieces up to it alone. That also holds
while BatchNorm statistics are estimated: each BatchNorm then normalises a batch by that batch, and the estimate acts
on the evaluated images only. So a piece can be finished, calibration and all, before the next one begins.
A network that cannot be cut is one piece, and each subnetwork is run by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from nas.data import Batch
from nas.data.ordered import labels_of
from nas.dist import autocast
from nas.errors import SpaceError
from nas.nn import GatedModel
from nas.space import Architecture, Chained, SearchSpace
from nas.space.calibrate import estimate_statistics, norms_with_statistics
from nas.space.chained import Piece, survey
from nas.space.model.pieces import in_pieces


class _Images(Sequence[Tensor]):
    """The images of batches, each batch made when it is asked for: all of them may be larger than the memory."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: Any) -> Any:
        return self._batches[number][0]


@dataclass(frozen=True)
class _Level:
    """The outputs of the first ``depth`` pieces of an architecture; at depth 0, the images.

    Attributes:
        calibration: for each calibration batch, with BatchNorm in training mode.
        evaluated: for each evaluated batch, with BatchNorm in eval mode and the statistics of the calibration.
    """

    depth: int
    calibration: Sequence[Tensor]
    evaluated: Sequence[Tensor]


class _Whole:
    """A network as one piece."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def piece(self, number: int, x: Tensor, architecture: Architecture) -> Tensor:
        y: Tensor = self._network(x, architecture)
        return y


class PrefixWalk:
    """The logits of many subnetworks; keeps the activations of common prefixes from one to the next.

    Args:
        model: a private copy in eval mode; the walk writes to its BatchNorm layers.
        space: of the architectures; None runs each subnetwork by itself.
        batches: to evaluate on.
        calibration: to estimate BatchNorm statistics on; None takes those of ``model``.
        precision_name: as in :func:`nas.train.evaluate`.
        memory_bytes: the most memory for activations, also between walks; what does not fit is computed again. The
            images, and what a single batch needs in passing, do not count.
        by_batch: BatchNorm normalises each evaluated batch by that batch; ``calibration`` is not looked at.

    Attributes:
        labels: of each evaluated batch.
        remark: of a ``GatedModel``, whether its subnetworks share work, and why they do not; else empty.
        block_evaluations: slots that were run over all images so far.

    Raises:
        SpaceError: ``model`` is :class:`~nas.space.Chained` and breaks what it promises.
    """

    def __init__(
        self,
        model: nn.Module,
        space: SearchSpace | None,
        batches: Sequence[Batch],
        calibration: Sequence[Batch] | None,
        precision_name: str,
        memory_bytes: int,
        by_batch: bool = False,
    ) -> None:
        self._memory, self._precision, self._device = memory_bytes, precision_name, batches[0][0].device
        self._cut(model, space, batches[0][0][:2])
        # Without running statistics there is nothing to estimate.
        has_norms, self.labels = any(piece.norms for piece in self._pieces), labels_of(batches)
        self._calibrates, self._by_batch = has_norms and (by_batch or calibration is not None), has_norms and by_batch
        calibrating = (calibration or ()) if self._calibrates and not by_batch else ()
        self._number = sum(map(len, [*self.labels, *labels_of(calibrating)]))  # of images
        self._path: Architecture = ()
        # along that path, ascending in depth; by batch, the evaluated images are those that calibrate
        images = _Images(batches)
        self._levels = [_Level(0, images, []) if self._by_batch else _Level(0, _Images(calibrating), images)]
        self.block_evaluations = 0

    def _cut(self, model: nn.Module, space: SearchSpace | None, x: Tensor) -> None:
        self._model: Chained | _Whole = _Whole(model)
        self._slots, self.remark = len(space.slots) if space else 0, ""
        self._pieces = [Piece(self._slots, norms_with_statistics(model), changes_input=True)]  # for all that is known
        if space is None or not isinstance(model, Chained | GatedModel):
            return
        try:
            cut = model if isinstance(model, Chained) else in_pieces(model)
            with autocast(self._precision, self._device):
                pieces = survey(cut, space.slots, x)
        except SpaceError as error:
            if isinstance(model, Chained):
                raise
            self.remark = f"each subnetwork is evaluated alone: the network {error.rule}"
            return
        self._model, self._pieces = cut, pieces
        if isinstance(model, GatedModel):
            self.remark = f"evaluations share prefixes: {len(space.slots)} slots in {len(pieces) - 2} pieces"

    @property
    def shares(self) -> bool:
        """Whether subnetworks that begin alike share work."""
        return len(self._pieces) > 1

    def logits(self, order: Sequence[Architecture]) -> Iterator[tuple[Architecture, Sequence[Tensor]]]:
        """Yield each architecture with its logits ``(B, classes)`` for each evaluated batch.

        A walk goes on from where the last one has ended: many short walks in lexicographic order do the work of one
        long walk.

        Args:
            order: the architectures, sorted so that those with a common prefix follow each other.
        """
        depths = self._depths_to_keep(order)
        for architecture in order:
            common = takewhile(lambda pair: pair[0] == pair[1], zip(self._path, architecture, strict=False))
            entries = sum(1 for _ in common)
            shared = sum(piece.entries <= entries for piece in self._pieces)  # all share the prologue
            self._levels = [level for level in self._levels if level.depth <= shared and level.depth in (0, *depths)]
            self._path = architecture
            for depth in depths:
                if depth > self._levels[-1].depth:
                    self._levels.append(self._advance(self._levels[-1], depth, architecture))
            last = self._advance(self._levels[-1], len(self._pieces), architecture)
            yield architecture, last.calibration if self._by_batch else last.evaluated

    def _depths_to_keep(self, order: Sequence[Architecture]) -> list[int]:
        # No two architectures share the output of the last slot: it is never kept.
        pieces = [piece for piece in self._pieces if piece.entries < self._slots]
        runs = [1, *(len({a[: piece.entries] for a in order}) for piece in pieces), len(order)]
        sizes = [0, *(self._number * piece.image_bytes for piece in pieces), 0]
        return depths_to_keep(runs, sizes, self._memory)

    @torch.no_grad()
    def _advance(self, level: _Level, depth: int, architecture: Architecture) -> _Level:
        """From ``level`` on to ``depth``, batch by batch, so that nothing in between stays in memory."""
        numbers = range(level.depth, depth)
        done, after = (self._pieces[last - 1].entries if last else 0 for last in (level.depth, depth))
        self.block_evaluations += after - done

        def run(x: Tensor) -> Tensor:
            for number in numbers:
                x = self._model.piece(number, x.clone() if self._pieces[number].changes_input else x, architecture)
            return x

        with autocast(self._precision, self._device):
            calibration: list[Tensor] = []
            if self._calibrates:
                norms = [norm for number in numbers for norm in self._pieces[number].norms]
                with estimate_statistics(norms):
                    calibration = [run(x) for x in level.calibration]
            return _Level(depth, calibration, [run(x) for x in level.evaluated])


def depths_to_keep(runs: Sequence[int], sizes: Sequence[int], budget: int) -> list[int]:
    """The levels to keep so that few pieces are run, and none is left out that would still fit.

    A piece between two kept levels is run once for each different prefix at the deeper one. While the levels take too
    much, the one is given up whose loss costs the least work for its bytes: on average one percent more work than the
    best choice.

    Args:
        runs: the number of different prefixes at each depth; the last depth is that of the result.
        sizes: bytes of a level at each depth; 0 for the first and the last one, which need not be kept.
        budget: bytes of all kept levels together.

    Returns:
        The depths, ascending, without the first and the last.
    """
    kept, last = list(range(1, len(runs) - 1)), len(runs) - 1

    def loss_a_byte(depth: int) -> float:
        before, behind = max([0, *(d for d in kept if d < depth)]), min([last, *(d for d in kept if d > depth)])
        return (runs[behind] - runs[depth]) * (depth - before) / max(sizes[depth], 1)

    while sum(sizes[depth] for depth in kept) > budget:
        kept.remove(min(kept, key=loss_a_byte))
    for depth in reversed(range(1, last)):
        if depth not in kept and sum(sizes[d] for d in kept) + sizes[depth] <= budget:
            kept.append(depth)
    return sorted(kept)
