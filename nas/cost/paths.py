"""Costs of paths that add up: what all paths share, plus what each choice of each slot adds."""

from __future__ import annotations

from abc import ABC, abstractmethod

from nas.space import Architecture, SearchSpace


class PathCost(ABC):
    """The cost of any path, from one count a choice.

    Exact where what a choice adds does not depend on the choices of the other slots.
    """

    def __init__(self, space: SearchSpace) -> None:
        first: Architecture = tuple(0 for _ in space.slots)
        self._base = self.count(first)
        self._added = [
            [0] + [self.count((*first[:i], c, *first[i + 1 :])) - self._base for c in range(1, len(slot.choices))]
            for i, slot in enumerate(space.slots)
        ]

    @abstractmethod
    def count(self, architecture: Architecture) -> int:
        """The cost of any architecture, from the path itself."""

    def __call__(self, architecture: Architecture) -> int:
        """The cost of an architecture, added up where one branch a slot is open."""
        total = self._base
        for added, entry in zip(self._added, architecture, strict=True):
            if not isinstance(entry, int):
                return self.count(architecture)
            total += added[entry]
        return total

    def smallest(self) -> tuple[Architecture, int]:
        """The cheapest architecture with one open branch a slot (of equals the first), and its cost."""
        architecture = tuple(added.index(min(added)) for added in self._added)
        return architecture, self(architecture)

    def largest(self) -> tuple[Architecture, int]:
        """The most expensive architecture with one open branch a slot (of equals the first), and its cost."""
        architecture = tuple(added.index(max(added)) for added in self._added)
        return architecture, self(architecture)
