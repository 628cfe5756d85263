"""Gates that do not learn: fixed, uniform and strictly fair."""

from __future__ import annotations

import torch

from nas.errors import ArchitectureError
from nas.gate.base import Gate
from nas.seeds import generator
from nas.settings import FairGateSettings, FixedGateSettings
from nas.space import Architecture, SearchSpace


class FixedGate(Gate):
    """Always the same architecture, also one with several open gates in a slot."""

    def __init__(self, space: SearchSpace, seed: int, settings: FixedGateSettings) -> None:
        super().__init__(space, seed)
        try:
            self.architecture = space.decode(settings.architecture)
        except ArchitectureError as error:  # again, with the key that the user wrote
            key = "gate.architecture"
            raise ArchitectureError(key, settings.architecture, error.rule, error.remedy) from None

    def __repr__(self) -> str:
        return f"FixedGate({self.space.name}, {self.space.encode(self.architecture)})"

    def paths(self, step: int) -> tuple[Architecture, ...]:
        return (self.architecture,)

    def to_evaluate(self, sample: list[Architecture]) -> list[Architecture]:
        return [self.architecture]


class UniformGate(Gate):
    """Single-path one-shot sampling (SPOS, Guo et al. 2020): every architecture is equally likely in every step."""

    BLOCK = 256
    """Steps whose paths are drawn together: a draw costs as much for one step as for all of them."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(space, seed)
        self._drawn: tuple[int, list[Architecture]] = (-1, [])

    def paths(self, step: int) -> tuple[Architecture, ...]:
        block, position = divmod(step, self.BLOCK)
        if self._drawn[0] != block:
            self._drawn = (block, self.space.sample_many(self.BLOCK, generator(self.seed, "gate", block)))
        return (self._drawn[1][position],)


class FairGate(Gate):
    """Strict fairness (FairNAS, Chu et al. 2021): in every round each choice of each slot runs exactly once.

    Each slot deals its choices like a pack of cards: shuffled, then one a path until none is left. Slots with
    fewer choices than others have shorter rounds; each slot is strictly fair over its own.

    ``accumulate`` runs one round of the longest slot in a step, K paths on one batch, and makes one update of
    the sum of their gradients; ``step_each`` makes an update of each path on a batch of its own.
    """

    def __init__(self, space: SearchSpace, seed: int, settings: FairGateSettings) -> None:
        super().__init__(space, seed)
        longest = max(len(slot.choices) for slot in space.slots)
        self.paths_per_step = longest if settings.mode == "accumulate" else 1
        self._dealt: dict[int, tuple[int, list[int]]] = {}

    def paths(self, step: int) -> tuple[Architecture, ...]:
        first = step * self.paths_per_step
        return tuple(self._path(number) for number in range(first, first + self.paths_per_step))

    def _path(self, number: int) -> Architecture:
        return tuple(self._deal(slot, *divmod(number, len(s.choices))) for slot, s in enumerate(self.space.slots))

    def _deal(self, slot: int, round_number: int, position: int) -> int:
        if self._dealt.get(slot, (-1, []))[0] != round_number:
            random = generator(self.seed, "gate", slot, round_number)
            pack = torch.randperm(len(self.space.slots[slot].choices), generator=random).tolist()
            self._dealt[slot] = (round_number, pack)
        return self._dealt[slot][1][position]
