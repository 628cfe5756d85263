"""Settings of the gates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from nas.errors import require
from nas.settings import rules
from nas.settings.rules import MISSING, Settings


@dataclass
class GateSettings(Settings, group="gate"):
    """What all gates have in common: a name."""

    name: str = MISSING

    @property
    def numbers(self) -> list[int]:
        """How many branches of a slot it opens, for :meth:`nas.space.SearchSpace.opened`."""
        return [1]


@dataclass
class DrawingGateSettings(GateSettings):
    """What the gates have in common that draw paths."""

    open: Any = 1
    """Branches that a path opens in each slot; of a list the number is drawn too, slot by slot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.open = rules.numbers("gate.open", self.open, "gate.open=[1,2]")

    @property
    def numbers(self) -> list[int]:
        return list(self.open)


@dataclass
class FixedGateSettings(GateSettings):
    """Always the same architecture."""

    name: str = "fixed"
    architecture: str = MISSING
    """One choice a slot, as in ``1-0-2``; ``0+1`` opens two gates of one slot."""


@dataclass
class UniformGateSettings(DrawingGateSettings):
    """Each slot draws each choice with the same probability, independently (SPOS)."""

    name: str = "uniform"


@dataclass
class FairGateSettings(DrawingGateSettings):
    """Strict fairness (FairNAS): in every round each choice of each slot runs exactly once."""

    name: str = "fair"
    mode: str = rules.choice("accumulate", "step_each")
    """``accumulate``: one update from the sum of a round's gradients; ``step_each``: an update a path."""


@dataclass
class LearnedGateSettings(DrawingGateSettings):
    """One logit a choice, learned by comparing whole paths on the held-out split."""

    name: str = "learned"
    lr: float = rules.positive(0.15)
    every: int = rules.positive(10)
    """Steps of the weights between two comparisons; one costs two forward passes."""
    warmup: float = rules.fraction(0.25)
    """Share of the run, at its beginning, with uniform paths and no comparison."""
    explore: float = rules.fraction(0.2)
    """Chance that a step of the weights runs a uniform path in spite of what the gate has learned."""
    target: dict[str, float] = field(default_factory=dict)
    """``flops``: where the cost of the gate's paths is pulled to; empty: costs do not count."""
    target_weight: float = rules.positive(1.0)
    """What a path loses that costs twice the target, in units of the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "write for example gate.target.flops=1e6"
        for name, value in self.target.items():
            require(name == "flops", f"gate.target.{name}", value, "only flops can be a target", remedy)
            require(0 < value < math.inf, "gate.target.flops", value, "must be above 0 and finite", remedy)
