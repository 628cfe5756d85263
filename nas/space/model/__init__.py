"""An existing network as a supernet."""

from nas.space.model.gate import gate_modules
from nas.space.model.space import ModelSpace

__all__ = ["ModelSpace", "gate_modules"]
