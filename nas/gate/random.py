"""Gates that do not learn: fixed, uniform and strictly fair."""

from __future__ import annotations

import math
from itertools import accumulate

import torch

from nas.errors import ArchitectureError
from nas.gate.base import Gate
from nas.nn import Active, active_of
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
    """Single-path one-shot sampling (SPOS, Guo et al. 2020): every architecture is equally likely in every step.

    With several numbers of open branches each number is equally likely, and each set of so many branches.
    """

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
    """Strict fairness (FairNAS, Chu et al. 2021): in every round each choice of each slot runs equally often.

    Each slot deals its choices like a pack of cards: shuffled, then one a path until none is left. Slots with
    fewer choices than others have shorter rounds; each slot is strictly fair over its own.

    Where a path takes several cards and the pack does not come out even, it is dealt again in the same order, so that
    no path gets a card twice, until both the pack and the numbers of cards that a path may take come out even: n of K
    choices take ``K / gcd(n, K)`` paths. Of several numbers each is as frequent as the others, in random order.

    ``accumulate`` runs one round of the longest slot in a step, such as K paths on one batch, and makes one update of
    the sum of their gradients; ``step_each`` makes an update of each path on a batch of its own.
    """

    def __init__(self, space: SearchSpace, seed: int, settings: FairGateSettings) -> None:
        super().__init__(space, seed)
        rounds = [
            len(numbers) * len(slot.choices) // math.gcd(len(slot.choices), sum(numbers))
            for slot, numbers in zip(space.slots, space.numbers, strict=True)
        ]
        self.paths_per_step = max(rounds) if settings.mode == "accumulate" else 1
        self._rounds = rounds
        self._dealt: dict[int, tuple[int, list[Active]]] = {}

    def paths(self, step: int) -> tuple[Architecture, ...]:
        first = step * self.paths_per_step
        return tuple(self._path(number) for number in range(first, first + self.paths_per_step))

    def _path(self, number: int) -> Architecture:
        return tuple(self._deal(slot, *divmod(number, length)) for slot, length in enumerate(self._rounds))

    def _deal(self, slot: int, round_number: int, position: int) -> Active:
        if self._dealt.get(slot, (-1, []))[0] != round_number:
            self._dealt[slot] = (round_number, self._round(slot, generator(self.seed, "gate", slot, round_number)))
        return self._dealt[slot][1][position]

    def _round(self, slot: int, random: torch.Generator) -> list[Active]:
        """The entries of a slot in a round."""
        count, numbers = len(self.space.slots[slot].choices), self.space.numbers[slot]
        pack = torch.randperm(count, generator=random).tolist()
        if not self.space.several:
            return pack
        sizes: list[int] = []
        while len(sizes) < self._rounds[slot]:
            sizes += [numbers[i] for i in torch.randperm(len(numbers), generator=random).tolist()]
        starts = accumulate(sizes, initial=0)
        return [
            active_of(sorted(pack[card % count] for card in range(start, start + size)))
            for start, size in zip(starts, sizes, strict=False)
        ]
