"""Which architecture to evaluate next: drawn, counted through, or asked of Optuna.

A proposal is a function of the seed, its number and the trials before its batch, of nothing else: so a search that
was killed goes on with the architectures that it would have evaluated anyway.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Set
from typing import Any

from optuna.trial import FrozenTrial

from nas.search.limits import Limits, cheapest
from nas.seeds import derive, generator
from nas.space import Architecture, SearchSpace

DRAWS = 1000
"""Rejected architectures after which the nearest allowed one is taken instead of another draw."""


class Proposer(ABC):
    """Proposes architectures within the limits, none of them twice."""

    def __init__(self, space: SearchSpace, limits: Limits, seed: int) -> None:
        self.space, self.limits, self.seed = space, limits, seed
        self.notes: dict[str, Any] = {}
        """What the journal must keep beside the last proposal."""

    @abstractmethod
    def __call__(self, number: int, taken: Set[Architecture]) -> Architecture | None:
        """The architecture of trial ``number``, which is none of ``taken``; None when there is none left."""

    def learn(self, trials: Sequence[FrozenTrial]) -> None:  # noqa: B027 (most have nothing to learn)
        """Take over what the journal knows by now."""

    def nearest(self, number: int, wanted: Architecture, taken: Set[Architecture]) -> Architecture | None:
        """The allowed architecture that differs from ``wanted`` in the fewest slots, or nearly so."""
        rng = random.Random(derive(self.seed, "nearest", number))
        start = self.limits.repaired(wanted, rng)  # the cheapest one is tried as well, for limits at odds
        for begin in (start, cheapest(self.space, self.limits.burden)):
            if begin is not None and self.limits.within(begin):
                found = next((a for a in self._outward(begin, rng) if a not in taken), None)
                if found is not None:
                    return found
        return None

    def _outward(self, start: Architecture, rng: random.Random) -> Iterator[Architecture]:
        """Allowed architectures in the order of the steps from ``start``, each step within the limits.

        All of them where there is one limit: from any, slots can take their cheapest choices one after the other.
        """
        ring, seen = [start], {start}
        while ring:
            yield from ring
            further = []
            for architecture in ring:
                for other in self.space.neighbors(architecture):
                    if other not in seen and self.limits.within(other):
                        seen.add(other)
                        further.append(other)
            rng.shuffle(further)
            ring = further


class Draw(Proposer):
    """Each allowed architecture that is left is equally likely."""

    def __call__(self, number: int, taken: Set[Architecture]) -> Architecture | None:
        draws = self.space.sample_many(DRAWS, generator(self.seed, "search", number))
        found = next((a for a in draws if a not in taken and self.limits.within(a)), None)
        return found if found is not None else self.nearest(number, draws[-1], taken)


class CountThrough(Proposer):
    """All architectures, in lexicographic order."""

    def __init__(self, space: SearchSpace, limits: Limits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self._rest = space.enumerate()

    def __call__(self, number: int, taken: Set[Architecture]) -> Architecture | None:
        return next((a for a in self._rest if a not in taken and self.limits.within(a)), None)
