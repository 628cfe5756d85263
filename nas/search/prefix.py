"""A walk through the subnetworks of a chain in which what begins alike is computed once.

What comes out of a piece of a :class:`~nas.space.Chained` supernet depends on the pieces up to it alone. That holds
also where BatchNorm statistics are estimated anew: while they are, each BatchNorm normalises a batch by that batch,
and the estimate acts on the judged pictures only. So a piece can be finished, calibration and all, before the next
begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.data import Batch
from nas.dist import autocast
from nas.space import Architecture, Chained, SearchSpace
from nas.space.calibrate import estimate_statistics
from nas.space.chained import survey


@dataclass(frozen=True)
class _Level:
    """What the first ``depth`` pieces of an architecture give: 0 pieces give the pictures."""

    depth: int
    calibration: list[Tensor]
    """Of the calibration batches, with BatchNorm in training mode."""
    judged: list[Tensor]
    """Of the judged batches, with BatchNorm in eval mode and the statistics of the calibration."""


class PrefixWalk:
    """Logits of many subnetworks of a chain; activations of common prefixes are kept from one to the next.

    Args:
        model: a private copy in eval mode; the walk writes to its BatchNorm layers.
        space: of the architectures.
        batches: to be judged.
        calibration: to estimate BatchNorm statistics on; None takes those of ``model``.
        precision_name: as in :func:`nas.train.evaluate`.
        memory_bytes: how much is kept at most, also between walks; what is not kept is computed again. It does not
            count the pictures nor what is needed for a single batch in passing.

    Attributes:
        block_evaluations: slots that have been run over all pictures so far.

    Raises:
        SpaceError: ``model`` is not what :class:`~nas.space.Chained` asks for.
    """

    def __init__(
        self,
        model: Chained,
        space: SearchSpace,
        batches: Sequence[Batch],
        calibration: Sequence[Batch] | None,
        precision_name: str,
        memory_bytes: int,
    ) -> None:
        self._model, self._slots, self._memory = model, len(space.slots), memory_bytes
        self._precision, self._device = precision_name, batches[0][0].device
        with autocast(precision_name, self._device):
            self._pieces = survey(model, space.slots, batches[0][0][:2])
        # Without running statistics there is nothing to estimate.
        self._calibrates = calibration is not None and any(piece.norms for piece in self._pieces)
        pictures = [x for x, _ in calibration or ()] if self._calibrates else []
        self._path: Architecture = ()
        self._levels = [_Level(0, pictures, [x for x, _ in batches])]  # along that path, ascending in depth
        self.block_evaluations = 0

    def logits(self, order: Sequence[Architecture]) -> Iterator[tuple[Architecture, list[Tensor]]]:
        """Each architecture with its logits ``(B, classes)`` of each judged batch, as soon as they are there.

        The first one goes on from where the last walk has ended: many short walks in lexicographic order do the
        work of a long one.

        Args:
            order: of the architectures; those with a common prefix follow each other.
        """
        depths = self._depths_to_keep(order)
        for architecture in order:
            shared = 1 + _common(self._path, architecture)  # the prologue is everybody's
            self._levels = [level for level in self._levels if level.depth <= shared and level.depth in (0, *depths)]
            self._path = architecture
            for depth in depths:
                if depth > self._levels[-1].depth:
                    self._levels.append(self._advance(self._levels[-1], depth, architecture))
            yield architecture, self._advance(self._levels[-1], len(self._pieces), architecture).judged

    def _depths_to_keep(self, order: Sequence[Architecture]) -> list[int]:
        # Nobody shares what comes out of the last slot: that is never kept.
        runs = [1, 1, *(len({a[:length] for a in order}) for length in range(1, self._slots)), len(order)]
        pictures = sum(map(len, self._levels[0].calibration)) + sum(map(len, self._levels[0].judged))
        sizes = [0, *(pictures * piece.picture_bytes for piece in self._pieces[: self._slots]), 0]
        return depths_to_keep(runs, sizes, self._memory)

    @torch.no_grad()
    def _advance(self, level: _Level, depth: int, architecture: Architecture) -> _Level:
        """From ``level`` on to ``depth``, batch by batch, so that nothing in between is kept."""
        numbers = range(level.depth, depth)
        self.block_evaluations += sum(1 <= number <= self._slots for number in numbers)

        def run(x: Tensor) -> Tensor:
            for number in numbers:
                x = self._model.piece(number, x, architecture)
            return x

        with autocast(self._precision, self._device):
            calibration: list[Tensor] = []
            if self._calibrates:
                norms = [norm for number in numbers for norm in self._pieces[number].norms]
                with estimate_statistics(norms):
                    calibration = [run(x) for x in level.calibration]
            return _Level(depth, calibration, [run(x) for x in level.judged])


def _common(one: Architecture, other: Architecture) -> int:
    """The length of the common prefix."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def depths_to_keep(runs: Sequence[int], sizes: Sequence[int], budget: int) -> list[int]:
    """Which levels to keep so that the fewest pieces are run; and what else fits, for the next walk.

    A piece between two kept levels is run as often as there are different prefixes at the deeper one. The best
    choices of the levels up to a depth are found from those up to smaller depths: all for which no other is at
    once as cheap and as small.

    Args:
        runs: different prefixes of each depth; the last depth is that of the result.
        sizes: bytes of a level of each depth. Depth 0 and the last one are there without being kept.
        budget: bytes of all kept levels together.

    Returns:
        The depths, ascending, without the first and the last.
    """
    best: list[list[tuple[int, int, list[int]]]] = [[(0, 0, [])]]  # by depth: pieces run, bytes, kept depths
    for depth in range(1, len(runs)):
        found = sorted(
            (pieces + runs[depth] * (depth - since), taken + sizes[depth], [*kept, depth])
            for since in range(depth)
            for pieces, taken, kept in best[since]
            if taken + sizes[depth] <= budget
        )
        best.append([])
        for choice in found:
            if not best[depth] or choice[1] < best[depth][-1][1]:
                best[depth].append(choice)
    _, taken, (*kept, _) = best[-1][0]
    for depth in reversed(range(1, len(runs) - 1)):
        if depth not in kept and taken + sizes[depth] <= budget:
            kept.append(depth)
            taken += sizes[depth]
    return sorted(kept)
