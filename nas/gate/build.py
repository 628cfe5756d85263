"""From settings to a gate."""

from __future__ import annotations

from nas.cost import PathCost
from nas.errors import SettingError
from nas.gate.base import Gate
from nas.gate.learned import LearnedGate
from nas.gate.random import FairGate, FixedGate, UniformGate
from nas.settings import (
    FairGateSettings,
    FixedGateSettings,
    GateSettings,
    LearnedGateSettings,
    UniformGateSettings,
)
from nas.space import SearchSpace


def build_gate(
    settings: GateSettings, space: SearchSpace, seed: int, total_steps: int, flops: PathCost | None = None
) -> Gate:
    """The gate that ``settings`` describe, for a run of ``total_steps`` updates; ``flops`` of any path for a target."""
    space = space.opened(settings.numbers)
    match settings:
        case FixedGateSettings():
            return FixedGate(space, seed, settings)
        case UniformGateSettings():
            return UniformGate(space, seed)
        case FairGateSettings():
            return FairGate(space, seed, settings)
        case LearnedGateSettings():
            return LearnedGate(space, seed, settings, total_steps, flops)
    raise SettingError("gate.name", settings.name, "is not a known gate", "use fixed, uniform, fair or learned")
