"""Proposals by a regression on what the trials before have found."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cached_property
from itertools import islice

import numpy as np
import torch

from nas.search.objectives import Limits, Objective
from nas.search.propose.proposers import Proposer, Trial
from nas.search.propose.surrogate import Column, Surrogate, one_hot
from nas.seeds import derive, generator
from nas.space import Architecture, SearchSpace

LARGEST = 6
"""Networks of the initial design that are the largest within the limits."""
FILL = 4
"""At least so many of it lie apart from each other."""
POOL, COSTLY_POOL = 10_000, 300
"""Networks among which a proposal is looked for: of a larger space random ones, and neighbors of the best. The second
is for features that take an evaluation of each."""
BEST = 4
"""Networks whose neighbors are looked at too."""
Costs = Mapping[str, Callable[[Architecture], float]]


class SurrogateProposer(Proposer):
    """Proposes what a :class:`~nas.search.propose.surrogate.Surrogate` of the trials so far expects most of.

    First comes an initial design: the largest networks within the limits, and networks far from each other in which
    each choice of each slot occurs. Then proposals are by turns the network with the best expected value, and the best
    network of a draw from the posterior (Thompson sampling), so that a batch also finds out what nobody knows.

    Args:
        space, limits, seed: as in :class:`Proposer`.
        target: the objective that is predicted.
        costs: by name, what makes a network large; each can be computed at once.
        columns: by name, numbers that predict the objective, as in :class:`~nas.search.propose.surrogate.Features`.
        choices, pairs: as in :class:`~nas.search.propose.surrogate.Surrogate`.
        costly: finding a column's number takes an evaluation.
    """

    def __init__(
        self,
        space: SearchSpace,
        limits: Limits,
        seed: int,
        target: Objective,
        costs: Costs,
        columns: Mapping[str, Sequence[Column]] | None = None,
        *,
        choices: bool = True,
        pairs: bool = True,
        costly: bool = False,
    ) -> None:
        super().__init__(space, limits, seed)
        self._target, self._costs, self._most = target, costs, COSTLY_POOL if costly else POOL
        self._how = {"columns": columns, "choices": choices, "pairs": pairs}
        self._known: dict[Architecture, list[tuple[float, float]]] = {}  # values and their weights
        self._fitted = False

    def tell(self, trials: Sequence[Trial]) -> None:
        known: dict[Architecture, list[tuple[float, float]]] = {}
        for trial in trials:
            if trial.values:
                value = -self._target.oriented(trial.values[self._target.name])
                known.setdefault(trial.architecture, []).append((value, trial.weight))
        self._fitted &= known == self._known
        self._known = known

    def ask(self, number: int, taken: Set[Architecture]) -> Trial | None:
        if number < len(self.design) and self.design[number] not in taken:
            return Trial(number, self.design[number])
        pool = [a for a in self._candidates() if a not in taken]
        if not pool:
            return None
        draws = generator(self.seed, "surrogate", number)
        if not self._known:
            return Trial(number, random.Random(derive(self.seed, "surrogate", number)).choice(pool))
        self._fit()
        values = self._surrogate.sample(pool, draws)[0] if number % 2 else self._surrogate.predict(pool)[0]
        return Trial(number, pool[int(np.argmax(values))])

    @cached_property
    def design(self) -> list[Architecture]:
        """The initial design: the first proposals, in order."""
        large = largest(self.pool, self._costs, LARGEST)
        mixed = spread(self.space, self.pool, large, fill_of(self.space), self.seed)
        random.Random(derive(self.seed, "design", "order")).shuffle(mixed)  # batches see both kinds
        return mixed

    @cached_property
    def pool(self) -> list[Architecture]:
        """All networks within the limits, or random ones if there are too many of them, and the largest."""
        everything = list(islice(self.limits.allowed(), self._most + 1))
        if len(everything) <= self._most:
            return everything
        rng = random.Random(derive(self.seed, "pool"))
        drawn = [self._near(a, rng) for a in self.space.sample_many(self._most, generator(self.seed, "pool"))]
        grown = [self._grown(a) for a in largest(drawn, self._costs, LARGEST)]
        return list(dict.fromkeys(drawn + grown))

    def _near(self, architecture: Architecture, rng: random.Random) -> Architecture:
        own = self.space.canonical(architecture)
        return own if self.limits.within(own) else next(self.limits.allowed(near=own, rng=rng))

    def _grown(self, architecture: Architecture) -> Architecture:
        """What it becomes by slots that take larger choices, as far as the limits allow."""
        while True:
            near = (self.space.canonical(a) for a in self.space.neighbors(architecture))
            larger = [a for a in near if self.limits.within(a) and self._size(a) > self._size(architecture)]
            if not larger:
                return architecture
            architecture = max(larger, key=self._size)

    def _size(self, architecture: Architecture) -> list[float]:
        return [cost(architecture) for cost in self._costs.values()]

    def _candidates(self) -> list[Architecture]:
        best = sorted(self._known, key=lambda a: -_mean(self._known[a]))[:BEST]
        near = (self.space.canonical(other) for a in best for other in self.space.neighbors(a))
        return list(dict.fromkeys([*self.pool, *filter(self.limits.within, near)]))

    @cached_property
    def _surrogate(self) -> Surrogate:
        return Surrogate(self.space, **self._how, reference=self.pool)  # type: ignore[arg-type]

    def _fit(self) -> None:
        if not self._fitted:
            counts = [sum(weight for _, weight in found) for found in self._known.values()]
            self._surrogate.fit(list(self._known), [*map(_mean, self._known.values())], counts)
            self._fitted = True


def _mean(found: Sequence[tuple[float, float]]) -> float:
    """The weighted mean of values."""
    return sum(value * weight for value, weight in found) / sum(weight for _, weight in found)


def fill_of(space: SearchSpace) -> int:
    """Networks that it takes for each choice of each slot to occur, and some for the space between."""
    return max(FILL, *(len(slot.choices) for slot in space.slots))


def largest(pool: Sequence[Architecture], costs: Costs, number: int) -> list[Architecture]:
    """The ``number`` largest of ``pool``: of each cost in turn the largest that is left."""
    orders = [sorted(pool, key=lambda a, cost=cost: -cost(a)) for cost in reversed([*costs.values()])]  # type: ignore[misc]
    return list(dict.fromkeys(a for equals in zip(*orders, strict=True) for a in equals))[:number]


def spread(
    space: SearchSpace, pool: Sequence[Architecture], first: Sequence[Architecture], number: int, seed: int
) -> list[Architecture]:
    """``first`` and ``number`` more of ``pool``, or all there are.

    Each next one has as many choices as possible that did not occur before, then the largest distance from all before,
    counted in slots that differ; of equals a random one.
    """
    chosen = one_hot(space, pool) > 0
    found = [pool.index(a) for a in first]
    ties = torch.rand(len(pool), generator=generator(seed, "ties"), dtype=torch.float64).numpy()
    while len(found) < min(len(first) + number, len(pool)):
        new = (chosen & ~chosen[found].any(axis=0)).sum(axis=1)
        apart = np.min([(chosen != chosen[i]).sum(axis=1) for i in found], axis=0)
        order = new * 2.0 * chosen.shape[1] + apart + ties / 2
        order[found] = -1
        found.append(int(order.argmax()))
    return [pool[i] for i in found]
