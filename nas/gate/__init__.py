"""Gates pick the branches that run."""

from nas.gate.base import Gate
from nas.gate.build import build_gate
from nas.gate.learned import LearnedGate
from nas.gate.random import FairGate, FixedGate, UniformGate

__all__ = ["FairGate", "FixedGate", "Gate", "LearnedGate", "UniformGate", "build_gate"]
