"""Costs of paths that add up: what all paths share, plus what each choice of each slot adds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from nas.space import Architecture, SearchSpace

Entry = tuple[int, int]
"""(slot, choice)"""


class PathCost(ABC):
    """The cost of any path, from one count a choice.

    It adds up the entries of a path's canonical form, which says what runs. This is exact where what a choice adds does
    not depend on the choices of the other slots.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        first, counted = _plan(space)
        self._base = self.count(first)
        self._added: list[dict[int, int]] = [{choice: 0} for choice in first]  # type: ignore[dict-item]
        for (slot, choice), architecture in counted.items():
            self._added[slot][choice] = 0
            self._added[slot][choice] = self.count(architecture) - self(architecture)

    @abstractmethod
    def count(self, architecture: Architecture) -> int:
        """The cost of any architecture, from the path itself."""

    def __call__(self, architecture: Architecture) -> int:
        """The cost of an architecture, added up where one branch a slot is open."""
        total = self._base
        for added, entry in zip(self._added, self._space.canonical(architecture), strict=True):
            if entry not in added:
                return self.count(architecture)
            total += added[entry]
        return total

    def smallest(self) -> tuple[Architecture, int]:
        """The cheapest architecture with one open branch a slot (of equals the first), and its cost."""
        architecture = tuple(min(sorted(added), key=added.__getitem__) for added in self._added)
        return architecture, self(architecture)

    def largest(self) -> tuple[Architecture, int]:
        """The most expensive architecture with one open branch a slot (of equals the first), and its cost."""
        architecture = tuple(max(sorted(added), key=added.__getitem__) for added in self._added)
        return architecture, self(architecture)


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
