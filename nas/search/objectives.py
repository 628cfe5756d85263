"""What can be looked for, which way is better, and how it is written for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import SettingError
from nas.score import PROXIES


@dataclass(frozen=True)
class Objective:
    """A number that belongs to an architecture."""

    name: str
    smaller_is_better: bool
    label: str
    """For an axis, with the unit."""
    head: str
    """For the head of a column."""
    scale: float = 1.0
    """From the value to the unit of the label."""
    digits: str = ".4g"
    """How the scaled value is written."""

    def text(self, value: float) -> str:
        """``value`` in the unit of the label."""
        return format(self.scale * value, self.digits)

    def oriented(self, value: float) -> float:
        """``value`` with its sign turned if larger is better, so that smaller always is."""
        return value if self.smaller_is_better else -value


JUDGED = {
    "accuracy": Objective("accuracy", False, "accuracy (%)", "accuracy %", 100, ".2f"),
    "loss": Objective("loss", True, "loss (cross-entropy)", "loss", 1, ".4f"),
}
"""Found by running a subnetwork of a trained supernet on held-out pictures."""
COSTS = {
    "flops": Objective("flops", True, "MFLOPs a picture (2 x MACs)", "MFLOPs", 1e-6, ".3f"),
    "parameters": Objective("parameters", True, "parameters (thousands)", "kparameters", 1e-3, ".2f"),
}
"""Known without running anything."""
LATENCY = Objective("latency", True, "latency (ms)", "latency ms", 1, ".3f")


def objective(name: str, bound: float | None = None) -> Objective:
    """The objective of that name.

    Args:
        bound: on it, where it is ``search.limit`` that names it, for the error.

    Raises:
        SettingError: there is none; the message lists them.
    """
    known = {**JUDGED, **COSTS, "latency": LATENCY}
    if name in known:
        return known[name]
    if name not in PROXIES:
        others = ", ".join(sorted(PROXIES.keys() - known.keys()))
        remedy = f"choose from {', '.join(known)}, or a proxy: {others}"
        if bound is not None:
            raise SettingError(f"search.limit.{name}", f"{bound:.10g}", "is on what is no objective", remedy)
        raise SettingError("search.objectives", name, "is no objective", remedy)
    better = PROXIES[name].higher_is_better
    return Objective(name, not better, f"{name} ({'larger' if better else 'smaller'} is better)", name)


def points(objectives: Sequence[Objective], found: Sequence[dict[str, float]]) -> list[tuple[float, ...]]:
    """Values as points to be minimised, one a row of ``found``."""
    return [tuple(o.oriented(values[o.name]) for o in objectives) for values in found]
