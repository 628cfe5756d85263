"""The base class of gates, which say which paths run in a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from nas.space import Architecture, SearchSpace


class Gate(ABC):
    """Picks the paths of each step, as a function of the seed and the step alone (and of what it has learned).

    Args:
        space: whose architectures it picks.
        seed: of the run.
    """

    learns = False
    """Whether it compares paths on held-out images. Such a gate gives ``compared`` and ``learn`` a meaning."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space, self.seed = space, seed

    def __repr__(self) -> str:
        learned, favourite = "", self.favourite()
        if favourite is not None:
            surest = [max(row) for row in self.probabilities()]
            learned = f", prefers {self.space.encode(favourite)}, {min(surest):.0%} to {max(surest):.0%} sure of a slot"
        return f"{type(self).__name__}({self.space.name}{learned})"

    @abstractmethod
    def paths(self, step: int) -> tuple[Architecture, ...]:
        """The paths of update ``step``, one after the other on the same batch; their gradients are summed."""

    def compared(self, step: int) -> tuple[Architecture, ...]:
        """The paths whose losses on one held-out batch it asks for after update ``step``; most often none."""
        return ()

    def learn(self, paths: Sequence[Architecture], losses: Sequence[float]) -> None:
        """Learn from the losses of ``paths``, which :meth:`compared` gave and which are finite."""
        raise NotImplementedError(f"{type(self).__name__} compares paths and does not say what it learns")

    def probabilities(self) -> list[list[float]]:
        """The chance of each choice of each slot, of a gate that learns them; else nothing."""
        return []

    def favourite(self) -> Architecture | None:
        """The architecture that a gate which learns prefers to all others."""
        return None

    def to_evaluate(self, sample: list[Architecture]) -> list[Architecture]:
        """The subnetworks that stand for the supernet: ``sample``, which represents its space, and the favourite."""
        favourite = self.favourite()
        return sample if favourite is None else [*sample, favourite]

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
