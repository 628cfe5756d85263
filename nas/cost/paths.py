"""Costs of paths that add up: what all paths share, plus what each open branch of each slot adds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

from nas.nn import active_of, indices_of
from nas.space import Architecture, SearchSpace

Cost = TypeVar("Cost", int, float)
Entry = tuple[int, int]
"""(slot, choice)"""


class PathCost(ABC):
    """The cost of any path, from one count a choice, made when the first cost is asked for.

    It adds up the entries of a path's canonical form, which says what runs. This is exact where what a branch adds does
    not depend on the other branches that are open.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    @cached_property
    def _costs(self) -> tuple[int, list[dict[int, int]]]:
        """What all paths cost, and by slot what each choice adds."""
        return added_up(self._space, self.count)

    @abstractmethod
    def count(self, architecture: Architecture) -> int:
        """The cost of any architecture, from the path itself."""

    def __call__(self, architecture: Architecture) -> int:
        """The cost of an architecture, added up where one branch a slot is open, or the space is of several."""
        total, by_slot = self._costs
        for added, entry in zip(by_slot, self._space.canonical(architecture), strict=True):
            if isinstance(entry, int) and entry in added:
                total += added[entry]
            elif self._space.several:
                total += sum(added[branch] for branch in indices_of(entry))
            else:
                return self.count(architecture)
        return total

    def smallest(self) -> tuple[Architecture, int]:
        """The cheapest architecture of the space (of equals the first), and its cost."""
        return self._extreme(1)

    def largest(self) -> tuple[Architecture, int]:
        """The most expensive architecture of the space (of equals the first), and its cost."""
        return self._extreme(-1)

    def _extreme(self, sign: int) -> tuple[Architecture, int]:
        found = []
        for added, numbers in zip(self._costs[1], self._space.numbers, strict=True):
            order = sorted(sorted(added), key=lambda branch, added=added: sign * added[branch])  # type: ignore[misc]
            sets = (order[:number] for number in numbers)
            found.append(min(sets, key=lambda branches, added=added: sign * sum(map(added.__getitem__, branches))))  # type: ignore[misc]
        architecture = tuple(active_of(sorted(branches)) for branches in found)
        return architecture, self(architecture)


def added_up(space: SearchSpace, cost: Callable[[Architecture], Cost]) -> tuple[Cost, list[dict[int, Cost]]]:
    """What all paths cost, and by slot what each choice adds to that, from one cost a choice.

    With several open branches a slot, these are the costs of a branch, from one cost more a slot; with one they are
    relative to one of them. Choices are left out that no canonical form has, or only together with others that are left
    out.
    """
    first, counted = _plan(space.opened([1]))
    base = cost(first)
    added: list[dict[int, Cost]] = [{choice: base - base} for choice in first]  # type: ignore[dict-item]
    for (slot, choice), architecture in counted.items():
        known = sum((row[entry] for row, entry in zip(added, architecture, strict=True) if entry in row), base)
        added[slot][choice] = cost(architecture) - known
    shared = base
    for i, row in enumerate(added if space.several else ()):
        own, *others = row
        if others:
            both = list(first)
            both[i] = active_of(sorted((own, others[0])))
            alone = cost(tuple(both)) - base - row[others[0]]
            row.update({branch: more + alone for branch, more in row.items()})
            shared -= alone
    return shared, added


def _plan(space: SearchSpace) -> tuple[Architecture, dict[Entry, Architecture]]:
    """A first architecture to count, and for each other entry one that has it and else nothing uncounted.

    All are canonical. The first is of one choice in every slot. Which one makes all others known depends on the space:
    where ``none`` is open everywhere, a choice may reach no output.
    """
    most = max(len(slot.choices) for slot in space.slots)
    uniform = [tuple(min(choice, len(slot.choices) - 1) for slot in space.slots) for choice in range(most)]
    plans = []
    for first in uniform:
        near = (other for start in dict.fromkeys((first, *uniform)) for other in (start, *space.neighbors(start)))
        plans.append(_reached(space.canonical(first), list(dict.fromkeys(map(space.canonical, near)))))
        if len(plans[-1][1]) == sum(len(slot.choices) - 1 for slot in space.slots):
            break
    return max(plans, key=lambda plan: len(plan[1]))


def _reached(first: Architecture, others: Sequence[Architecture]) -> tuple[Architecture, dict[Entry, Architecture]]:
    """``first``, and those of ``others`` by their one new entry, in an order in which each has just one."""
    known, found, before = set(enumerate(first)), dict[Entry, Architecture](), -1
    while len(found) > before:
        before = len(found)
        for other in others:
            new = [entry for entry in enumerate(other) if entry not in known]
            if len(new) == 1:
                known.add(new[0])
                found[new[0]] = other  # type: ignore[index]
    return first, found
