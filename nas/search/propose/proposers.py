"""Which architecture to evaluate next.

A proposal is a function of the seed, its number and the trials before its batch, and of nothing else. So a search that
was killed goes on with the architectures that it would have evaluated anyway.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from nas.search.objectives import Limits
from nas.seeds import derive, generator
from nas.space import Architecture, SearchSpace

SEARCH = "search"
"""The stage of a candidate; all others are trained again, or beside the winner."""
ESTIMATE_WEIGHT = 0.25
"""Of the accuracy that a stopped training would have reached. On the package's table its variance is some four times
that of a whole training's accuracy."""
DRAWS = 1000
"""Rejected draws after which the nearest allowed architecture is taken."""


@dataclass(frozen=True)
class Trial:
    """One architecture of a study.

    Attributes:
        number: counted from 0, in the order of the proposals.
        stage: ``search`` for a candidate; ``final``, ``winner`` and ``random`` for further trainings behind the search.
        draw: which seed it is trained with, where it is trained.
        values: everything that was found, objectives and others; empty while it is not finished, or where it failed.
        feasible: it was evaluated and keeps all limits.
        finished: it was evaluated, or failed.
        seconds: that its evaluation took, or its training.
        epochs: that it was trained alone for; 0 where it was not.
        train_losses: the mean training loss of each of them.
        stopped: its training was stopped at a rung, before its end; it has no values.
        known: what was found of it nevertheless, by name.
        images: held-out ones that its accuracy and loss rest on; fewer than of others where a race has dropped it.
        failed: why it has no values.
        notes: what its proposer wants back with it.
    """

    number: int
    architecture: Architecture
    values: dict[str, float] = field(default_factory=dict)
    feasible: bool = False
    finished: bool = False
    seconds: float = 0.0
    failed: str = ""
    notes: dict[str, Any] = field(default_factory=dict, repr=False)
    stage: str = SEARCH
    draw: int = 0
    epochs: int = 0
    train_losses: Sequence[float] = ()
    stopped: bool = False
    known: dict[str, float] = field(default_factory=dict)
    images: int = 0

    @property
    def weight(self) -> float:
        """How much its accuracy counts beside that of a whole training: an estimate has more noise."""
        return ESTIMATE_WEIGHT if self.stopped else 1.0


class Proposer(ABC):
    """Proposes networks within the limits, none of them twice, by their canonical forms.

    Args:
        space: of the networks.
        limits: that each proposal keeps, as far as costs can tell.
        seed: of the proposals.

    Attributes:
        used_up: whether nothing is left at all where it has no proposal.
    """

    used_up = True

    def __init__(self, space: SearchSpace, limits: Limits, seed: int) -> None:
        self.space, self.limits, self.seed = space, limits, seed

    @abstractmethod
    def ask(self, number: int, taken: Set[Architecture]) -> Trial | None:
        """Trial ``number``, whose architecture is canonical and not in ``taken``; None if no network is left."""

    def tell(self, trials: Sequence[Trial]) -> None:  # noqa: B027 (random and exhaustive have nothing to learn)
        """Learn from all trials so far, finished or not, by number. Called before each batch."""

    def batch_of(self, number: int, size: int) -> range:
        """The numbers of the trials that are proposed together with trial ``number``, ``size`` at a time."""
        first = number // size * size
        return range(first, first + size)

    def ready(self, number: int) -> bool:
        """Whether the batch that begins with trial ``number`` can be proposed by what was told; else it waits."""
        return True

    def nearest(self, number: int, wanted: Architecture, taken: Set[Architecture]) -> Architecture | None:
        """An allowed network that differs from ``wanted`` in about as few slots as possible; None if none is left."""
        rng = random.Random(derive(self.seed, "nearest", number))
        start = self.limits.repaired(wanted, rng)
        near = () if start is None else self._outward(start, rng)
        # With two limits at odds, those are not all: they may be reached from each other through others alone.
        return next((a for a in chain(near, self.limits.allowed(wanted, rng)) if a not in taken), None)

    def _outward(self, start: Architecture, rng: random.Random) -> Iterator[Architecture]:
        """Allowed networks in the order of the steps from ``start``, each step within the limits.

        With one limit these are all: from any architecture, slots can take their cheapest choices one by one.
        """
        ring, seen = [start], {start}
        while ring:
            yield from map(self.space.canonical, ring)
            further = []
            for architecture in ring:
                for other in self.space.neighbors(architecture):
                    if other not in seen and self.limits.within(other):
                        seen.add(other)
                        further.append(other)
            rng.shuffle(further)
            ring = further


class RandomProposer(Proposer):
    """Draws each allowed network that is left with the same probability, however many names it has."""

    def ask(self, number: int, taken: Set[Architecture]) -> Trial | None:
        draws = self.space.sample_many(DRAWS, generator(self.seed, "search", number))
        is_name = (a for a in draws if self.space.canonical(a) == a)
        found = next((a for a in is_name if a not in taken and self.limits.within(a)), None)
        found = found or self.nearest(number, draws[-1], taken)
        return None if found is None else Trial(number, found)


class ExhaustiveProposer(Proposer):
    """Proposes all networks, in the lexicographic order of their canonical forms."""

    def __init__(self, space: SearchSpace, limits: Limits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self._rest = limits.allowed()

    def ask(self, number: int, taken: Set[Architecture]) -> Trial | None:
        found = next((a for a in self._rest if a not in taken), None)
        return None if found is None else Trial(number, found)
