"""What a gate is: it says which paths run in a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

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

    def state_dict(self) -> dict[str, Any]:
        """What it has learned, if it learns."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up ``state_dict()`` again."""
        assert not state, "this gate has learned nothing that could be restored"
