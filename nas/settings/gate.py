"""Settings of the gates."""

from __future__ import annotations

from dataclasses import dataclass

from nas.settings import rules
from nas.settings.rules import MISSING, Settings


@dataclass
class GateSettings(Settings, group="gate"):
    """What all gates have in common: a name."""

    name: str = MISSING


@dataclass
class FixedGateSettings(GateSettings):
    """Always the same architecture."""

    name: str = "fixed"
    architecture: str = MISSING
    """One choice a slot, as in ``1-0-2``; ``0+1`` opens two gates of one slot."""


@dataclass
class UniformGateSettings(GateSettings):
    """Each slot draws each choice with the same probability, independently (SPOS)."""

    name: str = "uniform"


@dataclass
class FairGateSettings(GateSettings):
    """Strict fairness (FairNAS): in every round each choice of each slot runs exactly once."""

    name: str = "fair"
    mode: str = rules.choice("accumulate", "step_each")
    """``accumulate``: one update from the sum of a round's gradients; ``step_each``: an update a path."""


@dataclass
class LearnedGateSettings(GateSettings):
    """One logit a choice, drawn hard with Gumbel noise, learned on the held-out split."""

    name: str = "learned"
    lr: float = rules.positive(0.05)
    temperature: float = rules.positive(5.0)
    final_temperature: float = rules.positive(0.5)
    every: int = rules.positive(20)
    """Steps of the weights for each step of the logits; a step of the logits costs about one of the weights."""
