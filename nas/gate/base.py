"""The base class of gates, which say which paths run in a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from nas.space import Architecture, SearchSpace


class Gate(ABC):
    """Picks the paths of each step, as a function of the seed and the step alone (and of what it has learned).

    Args:
        space: whose architectures it picks.
        seed: of the run.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space, self.seed = space, seed

    @abstractmethod
    def paths(self, step: int) -> tuple[Architecture, ...]:
        """The paths of update ``step``, one after the other on the same batch; their gradients are summed."""

    def state_dict(self) -> dict[str, Tensor]:
        """What the gate has learned, by name; no copies. Nothing for one that does not learn."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Copy what ``state_dict()`` returned into a new gate.

        Raises:
            ValueError: it is of another gate or space.
        """
        if state:
            raise ValueError("this gate learns nothing, and the state is of one that has")
