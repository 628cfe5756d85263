"""The networks within bounds on their costs, without looking at those outside."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import ne

from nas.cost.paths import added_up
from nas.nn import Active, indices_of
from nas.space import Architecture, SearchSpace

Pair = tuple[float, float]


class Allowed:
    """The networks of a space that keep up to two bounds, exactly.

    A few first choices are gone on from only if some choices of the other slots fit into what is left of both bounds.
    For that it keeps, of the last slot, the last two, and so on, the pairs of costs that no other pair undercuts in
    both.

    Args:
        space: of the networks.
        costs: with their bounds; each adds up over the entries of an architecture's canonical form.

    Attributes:
        smallest: the pairs of costs that no network undercuts in both, ascending in the first. Where there is one
            bound, or none, the others are 0.
    """

    def __init__(self, space: SearchSpace, costs: Sequence[tuple[Callable[[Architecture], float], float]]) -> None:
        assert len(costs) <= 2, "FLOPs and parameters are what is known without an evaluation"
        self._space, self._costs = space, costs
        nothing = 0.0, [dict.fromkeys(range(len(slot.choices)), 0.0) for slot in space.slots]
        (base, added), (other_base, other_added) = [
            *(added_up(space, cost) for cost, _ in costs),
            *[nothing] * (2 - len(costs)),
        ]
        self._start = base, other_base
        bounds = [*(bound for _, bound in costs), math.inf, math.inf]
        self._bounds = bounds[0], bounds[1]
        # What no canonical form has, or nobody knows the cost of, is looked at.
        self._entries = [space.entries(slot) for slot in range(len(space.slots))]
        self._added: list[dict[Active, Pair]] = [
            {entry: (_sum(one, entry), _sum(other, entry)) for entry in entries}
            for entries, one, other in zip(self._entries, added, other_added, strict=True)
        ]
        self._rest: list[list[Pair]] = [[(0.0, 0.0)]]  # by slot: of that slot and those behind it
        for pairs in reversed(self._added):
            self._rest.insert(0, _smallest(_plus(a, b) for a in _smallest(pairs.values()) for b in self._rest[0]))
        self.smallest = [_plus(self._start, rest) for rest in self._rest[0]]

    def __call__(self, near: Architecture | None = None, rng: random.Random | None = None) -> Iterator[Architecture]:
        """Each allowed network once, by its canonical form.

        Args:
            near: whose choices are tried first, so that the first one found agrees with it as far as possible, in the
                first slots above all.
            rng: decides on the order of the other choices; they are ascending if it is not given.
        """
        order = [*map(list, self._entries)]
        if rng is not None:
            for choices in order:
                rng.shuffle(choices)
        if near is not None:
            order = [sorted(choices, key=partial(ne, wish)) for choices, wish in zip(order, near, strict=True)]
        return self._from((), self._start, order)

    def keeps(self, costs: Pair) -> bool:
        """Whether the costs of a network keep both bounds."""
        return costs[0] <= self._bounds[0] and costs[1] <= self._bounds[1]

    def _from(self, first: Architecture, spent: Pair, order: Sequence[Sequence[Active]]) -> Iterator[Architecture]:
        slot = len(first)
        if slot == len(order):
            if all(cost(first) <= bound for cost, bound in self._costs) and self._space.canonical(first) == first:
                yield first
            return
        for choice in order[slot]:
            now = _plus(spent, self._added[slot][choice])
            if self._fits(now, self._rest[slot + 1]):
                yield from self._from((*first, choice), now, order)

    def _fits(self, spent: Pair, rest: Sequence[Pair]) -> bool:
        """Whether one of the pairs of ``rest`` fits into what is left of the bounds."""
        number = bisect_right(rest, (self._bounds[0] - spent[0], math.inf))
        return number > 0 and spent[1] + rest[number - 1][1] <= self._bounds[1]


def _sum(added: Mapping[int, float], entry: Active) -> float:
    return sum(added.get(branch, -math.inf) for branch in indices_of(entry))


def _plus(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def _smallest(pairs: Iterable[Pair]) -> list[Pair]:
    """Those that no other undercuts in both: ascending in the first, descending in the second."""
    kept: list[Pair] = []
    for pair in sorted(set(pairs)):
        if not kept or pair[1] < kept[-1][1]:
            kept.append(pair)
    return kept
