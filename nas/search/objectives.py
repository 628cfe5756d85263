"""What can be searched for: objectives with their directions, and limits on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas.errors import SettingError, did_you_mean
from nas.score import PROXIES
from nas.search.allowed import Allowed
from nas.settings.rank import SUPERNET, TRIVIAL
from nas.space import Architecture, SearchSpace


@dataclass(frozen=True)
class Objective:
    """A number that belongs to an architecture.

    Attributes:
        label: for an axis, with the unit.
        head: for the head of a column.
        scale: from the value to the unit of the label.
        digits: the format of the scaled value.
        derived: its values depend on all finished trials, so they are computed from those and not kept.
    """

    name: str
    smaller_is_better: bool
    label: str
    head: str
    scale: float = 1.0
    digits: str = ".4g"
    derived: bool = False

    def text(self, value: float) -> str:
        """``value`` in the unit of the label."""
        return format(self.scale * value, self.digits)

    def oriented(self, value: float) -> float:
        """``value``, negated if larger is better: of oriented values the smaller is always better."""
        return value if self.smaller_is_better else -value


WAYS = {"": "", "running": ", running statistics", "tuned": ", fine-tuned"}
"""How a supernet is asked, by the end of an objective's name."""
_METRICS = {
    "accuracy": Objective("accuracy", False, "accuracy{} (%)", "accuracy{} %", 100, ".2f"),
    "loss": Objective("loss", True, "loss{} (cross-entropy)", "loss{}", 1, ".4f"),
}


def _evaluated(name: str) -> Objective:
    metric, _, way = name.partition("_")
    one = _METRICS[metric]
    return replace(one, name=name, label=one.label.format(WAYS[way]), head=one.head.format(WAYS[way]))


EVALUATED = {name: _evaluated(name) for name in SUPERNET}
"""Found by running a subnetwork of a trained supernet on held-out images, as ``nas-rank`` does."""
TRAINED = Objective("trained", False, "accuracy after training (%)", "trained %", 100, ".2f")
"""Accuracy on held-out images after a training of the network alone, in a search as in ``nas-train``."""
COSTS = {
    "flops": Objective("flops", True, "MFLOPs per image (2 x MACs)", "MFLOPs", 1e-6, ".3f"),
    "parameters": Objective("parameters", True, "parameters (thousands)", "kparameters", 1e-3, ".2f"),
}
"""Known without running anything."""
LATENCY = Objective("latency", True, "latency (ms)", "latency ms", 1, ".3f")
RANK_SUM = Objective("rank_sum", False, "sum of ranks", "sum of ranks", 1, "g", derived=True)
"""The ranks of some predictors, added up: each counts in the direction in which it predicts accuracy."""
SURROGATE = Objective("surrogate", False, "predicted accuracy (%)", "predicted %", 100, ".2f", derived=True)
"""What a regression on the trainings of the same search says."""


def objective(name: str, bound: float | None = None) -> Objective:
    """The objective of that name.

    Args:
        bound: for the error, if it is a ``search.limit`` that names the objective.

    Raises:
        SettingError: there is none; the message lists them.
    """
    known = {**EVALUATED, **COSTS, **{o.name: o for o in (TRAINED, LATENCY, RANK_SUM, SURROGATE)}}
    if name in known:
        return known[name]
    if name not in PROXIES:
        remedy = named_or_proxy(name, known)
        if bound is not None:
            raise SettingError(f"search.limit.{name}", f"{bound:.10g}", "is a limit on an unknown objective", remedy)
        raise SettingError("search.objectives", name, "is an unknown objective", remedy)
    better = PROXIES[name].higher_is_better
    return Objective(name, not better, f"{name} ({'larger' if better else 'smaller'} is better)", name)


def named_or_proxy(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is neither one of the known ones nor a proxy."""
    proxies = sorted(PROXIES.keys() - {*known, *TRIVIAL})
    return did_you_mean(name, [*known, *proxies], f"choose from {', '.join(known)}, or a proxy: {', '.join(proxies)}")


def points(objectives: Sequence[Objective], found: Sequence[dict[str, float]]) -> list[tuple[float, ...]]:
    """One point to be minimised for each entry of ``found``, which are values by name."""
    return [tuple(o.oriented(values[o.name]) for o in objectives) for values in found]


class Limits:
    """Bounds on what architectures may cost, or must reach.

    Args:
        space: of the architectures.
        bounds: by the name of an objective: the largest value allowed if smaller is better, else the smallest.
        costs: by name, what can be computed without an evaluation: the sum of what each entry of an architecture's
            canonical form costs.

    Attributes:
        allowed: gives the networks that keep the bounds on costs.

    Raises:
        SettingError: no architecture keeps the bounds on costs, one of them or all, or a bound is on an unknown
            objective.
    """

    def __init__(
        self, space: SearchSpace, bounds: Mapping[str, float], costs: Mapping[str, Callable[[Architecture], float]]
    ) -> None:
        self.space = space
        self.bounds: dict[Objective, float] = {objective(n, b): b for n, b in bounds.items()}
        self._costs = [(costs[name], bound) for name, bound in bounds.items() if name in costs]
        self.allowed = Allowed(space, self._costs)
        _refuse_impossible(space, {name: bound for name, bound in bounds.items() if name in costs}, self.allowed)

    def within(self, architecture: Architecture) -> bool:
        """Whether an architecture keeps the limits on costs, which need no evaluation."""
        return all(cost(architecture) <= bound for cost, bound in self._costs)

    def violations(self, values: Mapping[str, float]) -> dict[str, float]:
        """By how much each limit is broken, by name; 0 or less where it is kept."""
        return {o.name: o.oriented(values[o.name]) - o.oriented(bound) for o, bound in self.bounds.items()}

    def repaired(self, architecture: Architecture, rng: random.Random) -> Architecture | None:
        """A similar architecture within the limits on costs: slots take cheaper choices, in random order.

        Returns:
            None if that leads nowhere, which takes two limits at odds with each other.
        """
        while not self.within(architecture):
            excess = self._excess(architecture)
            better = [other for other in self.space.neighbors(architecture) if self._excess(other) < excess]
            if not better:
                return None
            architecture = rng.choice(better)
        return architecture

    def _excess(self, architecture: Architecture) -> float:
        return sum(max(0.0, cost(architecture) - bound) / (abs(bound) or 1.0) for cost, bound in self._costs)


def _refuse_impossible(space: SearchSpace, bounds: Mapping[str, float], allowed: Allowed) -> None:
    """Refuse bounds on costs that no network keeps, with the smallest costs that some network has."""
    pairs = allowed.smallest
    least = [min(pair[i] for pair in pairs) for i in range(len(bounds))]
    if len(bounds) == 2 and all(smallest > bound for smallest, bound in zip(least, bounds.values(), strict=True)):
        value = ", ".join(f"{name}: {bound:.10g}" for name, bound in bounds.items())
        remedy = " and ".join(f"{cost:.10g} {name}" for name, cost in zip(bounds, pairs[0], strict=True))
        rule = f"no architecture of space {space.name} is that small in either"
        raise SettingError("search.limit", f"{{{value}}}", rule, f"allow at least {remedy}, as one has")
    for smallest, (name, bound) in zip(least, bounds.items(), strict=True):
        if smallest > bound:
            rule = f"no architecture of space {space.name} is that small; the smallest has {smallest:.10g}"
            raise SettingError(f"search.limit.{name}", f"{bound:.10g}", rule, f"allow at least {smallest:.10g}")
    if len(bounds) == 2 and not any(map(allowed.keeps, pairs)):
        (one, bound), (other, other_bound) = bounds.items()
        fewest = min(pair[1] for pair in pairs if pair[0] <= bound)
        other_fewest = min(pair[0] for pair in pairs if pair[1] <= other_bound)
        value = f"{{{one}: {bound:.10g}, {other}: {other_bound:.10g}}}"
        rule = f"no architecture of space {space.name} keeps both"
        remedy = f"allow at least {other_fewest:.10g} {one}, or at least {fewest:.10g} {other}"
        raise SettingError("search.limit", value, rule, remedy)
