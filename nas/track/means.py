"""Means of what is observed of each branch, such as its time, its gradients or its accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from nas.nn import indices_of
from nas.space import Architecture

Branch = tuple[int, int]
"""(slot, choice)"""


class BranchMeans:
    """Sums of observations for those branches that have some; an observation touches the entry of its branch alone.

    Args:
        rows: what :meth:`rows` returned, to go on from there.
    """

    def __init__(self, rows: Iterable[Sequence[float]] = ()) -> None:
        self._sums: dict[Branch, list[float]] = {(int(row[0]), int(row[1])): [*row[2:]] for row in rows}

    def add(self, branch: Branch, value: float) -> None:
        """Take note of one observation."""
        sums = self._sums.setdefault(branch, [0, 0.0])
        sums[0] += 1
        sums[1] += value

    def means(self, scale: float = 1.0) -> dict[Branch, float]:
        """``scale`` times the mean of each branch that was observed, in the order of slots and choices."""
        return {branch: scale * total / number for branch, (number, total) in sorted(self._sums.items())}

    def rows(self) -> list[list[float]]:
        """``[slot, choice, observations, their sum]`` of each branch that was observed, for a checkpoint."""
        return [[*branch, *sums] for branch, sums in self._sums.items()]


def branches_of(path: Architecture) -> Iterator[Branch]:
    """The branches that an architecture opens."""
    return ((slot, choice) for slot, entry in enumerate(path) for choice in indices_of(entry))
