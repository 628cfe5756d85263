"""Settings of the gates."""

from __future__ import annotations

from dataclasses import dataclass

from nas.settings.rules import MISSING, one_of, positive


@dataclass
class GateSettings:
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
    mode: str = "accumulate"
    """``accumulate``: one update from the sum of a round's gradients; ``step_each``: an update a path."""

    def __post_init__(self) -> None:
        one_of("gate.mode", self.mode, "accumulate", "step_each")


@dataclass
class LearnedGateSettings(GateSettings):
    """One logit a choice, drawn hard with Gumbel noise, learned on the held-out split."""

    name: str = "learned"
    lr: float = 0.05
    temperature: float = 5.0
    final_temperature: float = 0.5
    every: int = 20
    """Steps of the weights for each step of the logits; a step of the logits costs about one of the weights."""

    def __post_init__(self) -> None:
        positive("gate", self, "lr", "temperature", "final_temperature", "every")
