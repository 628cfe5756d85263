"""Hard limits: which architectures are not evaluated at all, and which are found to break one afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from nas.errors import SettingError
from nas.search.objectives import Objective, objective
from nas.space import Architecture, SearchSpace


class Limits:
    """Bounds on what architectures may cost, or must reach.

    Args:
        space: of the architectures, one open branch a slot.
        bounds: by the name of an objective: the largest value allowed where smaller is better, else the smallest.
        costs: what can be computed without evaluating. A slot must add to a cost by its own choice alone.

    Raises:
        SettingError: a bound on a cost that no architecture keeps, or a bound on what is no objective.
    """

    def __init__(
        self, space: SearchSpace, bounds: Mapping[str, float], costs: Mapping[str, Callable[[Architecture], float]]
    ) -> None:
        self.space = space
        self.bounds: dict[Objective, float] = {objective(n, b): b for n, b in bounds.items()}
        self._costs = [(costs[name], bound) for name, bound in bounds.items() if name in costs]
        for name, bound in bounds.items():
            if name in costs:
                self._check(name, bound, costs[name])

    def _check(self, name: str, bound: float, cost: Callable[[Architecture], float]) -> None:
        smallest = cost(cheapest(self.space, cost))
        if smallest > bound:
            rule = f"no architecture of space {self.space.name} is that small; the smallest has {smallest:.10g}"
            raise SettingError(f"search.limit.{name}", f"{bound:.10g}", rule, f"allow at least {smallest:.10g}")

    def within(self, architecture: Architecture) -> bool:
        """Whether it keeps the limits that can be checked without evaluating it."""
        return all(cost(architecture) <= bound for cost, bound in self._costs)

    def violations(self, values: Mapping[str, float]) -> dict[str, float]:
        """By how much each limit is broken, 0 or less where it is kept."""
        return {o.name: o.oriented(values[o.name]) - o.oriented(bound) for o, bound in self.bounds.items()}

    def repaired(self, architecture: Architecture, rng: random.Random) -> Architecture | None:
        """A near architecture within the limits on costs: in random order, slots take choices that cost less.

        Returns:
            None where such steps lead to none, which takes two limits at odds with each other.
        """
        while not self.within(architecture):
            excess = self._excess(architecture)
            better = [other for other in self.space.neighbors(architecture) if self._excess(other) < excess]
            if not better:
                return None
            architecture = rng.choice(better)
        return architecture

    def burden(self, architecture: Architecture) -> float:
        """The limited costs, each as a share of its bound, added up."""
        return sum(cost(architecture) / (abs(bound) or 1.0) for cost, bound in self._costs)

    def _excess(self, architecture: Architecture) -> float:
        return sum(max(0.0, cost(architecture) - bound) / (abs(bound) or 1.0) for cost, bound in self._costs)


def cheapest(space: SearchSpace, cost: Callable[[Architecture], float]) -> Architecture:
    """The architecture of the smallest cost, to which each slot adds by its own choice alone."""
    first: Architecture = tuple(0 for _ in space.slots)
    return tuple(
        min(range(len(slot.choices)), key=lambda choice, i=i: cost((*first[:i], choice, *first[i + 1 :])))  # type: ignore[misc]
        for i, slot in enumerate(space.slots)
    )
