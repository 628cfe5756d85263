"""What a search space is: slots with named choices, and a supernet in which they can be opened and closed."""

from __future__ import annotations

import copy
import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from nas.errors import ArchitectureError, SettingError, require
from nas.nn import Active, active_of, indices_of, open_branches
from nas.seeds import weights
from nas.space.extract import extract

_FORM = re.compile(r"[0-9]{1,9}([+-][0-9]{1,9})*")

SHOWN = 4
"""Slots that are named where a space is printed."""
MOST_ENTRIES = 20_000
"""Of a slot that can be enumerated."""

Architecture = tuple[Active, ...]
"""Which branches are open: one entry a slot, an index or (for several open gates) a tuple of indices."""


@dataclass(frozen=True)
class Slot:
    """A place in the supernet where one of several branches runs."""

    name: str
    choices: tuple[str, ...]

    def named(self, entry: Active) -> str:
        """The entry of an architecture in the names of its choices, for people: ``conv3``, ``conv3+skip``."""
        return "+".join(self.choices[index] for index in indices_of(entry))


class SearchSpace(ABC):
    """A set of architectures and the supernet that holds them all.

    Args:
        name: of the space.
        slots: in the order of an architecture's entries.

    Attributes:
        numbers: by slot, how many of its branches an architecture opens: one, unless the space was :meth:`opened`.
        several: an architecture may open several branches of a slot.
    """

    def __init__(self, name: str, slots: tuple[Slot, ...]) -> None:
        self.name, self.slots, self.several = name, slots, False
        self.numbers: tuple[tuple[int, ...], ...] = ((1,),) * len(slots)
        self._key = "gate.open"
        self._counts = torch.tensor([len(slot.choices) for slot in slots], dtype=torch.float64)

    def opened(self, numbers: Sequence[int], key: str = "gate.open") -> SearchSpace:
        """The same space with architectures that open so many branches of each slot.

        What is counted, sampled, enumerated and changed are architectures of these numbers, and no others are valid. A
        slot leaves out the numbers that it has too few branches for. With ``[1]`` it is the space as it was made,
        which takes any number where it is given one, as ``gate=fixed`` does. ``key`` names the setting in messages.

        Raises:
            SettingError: a slot has too few branches for all of the numbers, or no slot has enough for one of them; or
                architectures of this space have several names.
        """
        if list(numbers) == [1] and not self.several:
            return self
        rule = f"must be 1 in space {self.name}, where several architectures name one network"
        require(not self.has_aliases, key, list(numbers), rule, "leave it out, or take another space")
        found = copy.copy(self)
        found.several, found._key = list(numbers) != [1], key
        found.numbers = tuple(tuple(n for n in numbers if n <= len(slot.choices)) for slot in self.slots)
        most, largest = max(len(slot.choices) for slot in self.slots), max(numbers)
        rule = f"no slot of space {self.name} has {largest} branches; the largest has {most}"
        require(largest <= most, key, list(numbers), rule, f"write numbers up to {most}")
        for slot, fitting in zip(self.slots, found.numbers, strict=True):
            rule, remedy = (
                f"slot {slot.name} of space {self.name} has only {len(slot.choices)}",
                f"add 1, as in {key}=",
            )
            require(bool(fitting), key, list(numbers), rule, f"{remedy}[1,{','.join(map(str, numbers))}]")
        return found

    def __repr__(self) -> str:
        slots = [f"{slot.name} ({len(slot.choices)})" for slot in self.slots[:SHOWN]]
        if len(self.slots) > SHOWN:
            slots.append(f"... {len(self.slots)} slots")
        size = f"{self.size:,}" if self.size < 10**12 else f"about 10^{math.log10(self.size):.0f}"
        return f"{type(self).__name__}({self.name}: {', '.join(slots)}; {size} architectures)"

    @property
    def has_aliases(self) -> bool:
        """Whether some architectures may name the same network: :meth:`canonical` is not the identity."""
        return type(self).canonical is not SearchSpace.canonical

    @property
    def size(self) -> int:
        """Number of architectures."""
        pairs = zip(self.slots, self.numbers, strict=True)
        return math.prod(sum(math.comb(len(slot.choices), n) for n in numbers) for slot, numbers in pairs)

    @property
    def example(self) -> str:
        """An architecture as text, for messages."""
        entries = []
        for i, (slot, numbers) in enumerate(zip(self.slots, self.numbers, strict=True)):
            several = range(i + 1, i + 1 + numbers[i % len(numbers)])
            entries.append(active_of(sorted(index % len(slot.choices) for index in several)))
        return self.encode(tuple(entries))

    def entries(self, slot: int) -> Sequence[Active]:
        """All that an architecture may have at a slot, in lexicographic order.

        Raises:
            SettingError: they are more than 20,000.
        """
        count, numbers = len(self.slots[slot].choices), self.numbers[slot]
        if not self.several:
            return range(count)
        number = sum(math.comb(count, n) for n in numbers)
        if number > MOST_ENTRIES:
            rule = f"slot {self.slots[slot].name} then has {number:,} entries; {MOST_ENTRIES:,} can be enumerated"
            raise SettingError(self._key, list(numbers), rule, "open fewer, or group the branches of the slot")
        return _entries(count, numbers)

    @abstractmethod
    def build(self) -> nn.Module:
        """A supernet, ``forward(x, architecture)``, initialised from torch's global generator."""

    def supernet(self, seed: int = 0) -> nn.Module:
        """The supernet with the initial weights of ``seed``; torch's global generator is left as it was."""
        with weights(seed):
            return self.build()

    def subnet(self, architecture: Architecture, seed: int = 0) -> nn.Module:
        """The stand-alone network of ``architecture``, with the weights it has in ``supernet(seed)``."""
        return extract(self.supernet(seed), self.validate(architecture))

    def sample(self, generator: torch.Generator) -> Architecture:
        """An architecture, each choice of a slot equally likely."""
        return self.sample_many(1, generator)[0]

    def sample_many(self, number: int, generator: torch.Generator) -> list[Architecture]:
        """``number`` independent samples, in one draw.

        Of each slot first the number of open branches is drawn, then the branches; each number is equally likely.
        """
        if self.several:
            shape = number, len(self.slots), 1 + max(map(max, self.numbers))
            rows = torch.rand(shape, generator=generator, dtype=torch.float64).tolist()
            return [tuple(map(_drawn, map(len, (s.choices for s in self.slots)), self.numbers, row)) for row in rows]
        draws = torch.rand(number, len(self.slots), generator=generator, dtype=torch.float64)
        return [tuple(row) for row in (draws * self._counts).long().tolist()]

    def validate(self, architecture: Architecture) -> Architecture:
        """``architecture`` itself, if it fits this space.

        Raises:
            ArchitectureError: a wrong number of entries, or an entry that its slot does not have; or, in a space that
                was :meth:`opened`, another number of open branches.
        """
        if len(architecture) != len(self.slots):
            rule = f"must have one entry for each of the {len(self.slots)} slots of space {self.name}"
            raise ArchitectureError("architecture", architecture, rule, f"write for example {self.example}")
        for slot, numbers, entry in zip(self.slots, self.numbers, architecture, strict=True):
            try:
                number = len(open_branches(entry, len(slot.choices)))
            except ArchitectureError as error:
                remedy = f"slot {slot.name} has 0 to {len(slot.choices) - 1}: {', '.join(slot.choices)}"
                raise ArchitectureError("architecture", architecture, f"entry {entry} {error.rule}", remedy) from None
            if self.several and number not in numbers:
                rule = f"opens {number} of slot {slot.name}, where {' or '.join(map(str, numbers))} may be open"
                raise ArchitectureError("architecture", architecture, rule, f"write for example {self.example}")
        return architecture

    def canonical(self, architecture: Architecture) -> Architecture:
        """The one name of the network that ``architecture`` names; the same architecture unless a space overrides it.

        A space overrides it where architectures compute the same network, with the same weights of the supernet: for
        example where what a slot gives reaches no output. All names of a network need the same canonical form,
        which is its own. Searches evaluate and count each form once, and costs are added up over its entries.
        """
        return architecture

    def encode(self, architecture: Architecture) -> str:
        """``architecture`` as text: ``1-0-2``, with ``0+1`` for an entry of two open branches."""
        return "-".join("+".join(map(str, indices_of(entry))) for entry in self.validate(architecture))

    def decode(self, text: str) -> Architecture:
        """The architecture that ``encode`` wrote as ``text``.

        Raises:
            ArchitectureError: the text is not of that form, or does not fit this space.
        """
        if not _FORM.fullmatch(text):  # int would take more: other digits, signs, underscores, blanks
            rule = "must be one number a slot, joined by '-'"
            raise ArchitectureError("architecture", text, rule, f"write for example {self.example}")
        entries = [[int(index) for index in entry.split("+")] for entry in text.split("-")]
        if self.several:  # an architecture has one name
            entries = [*map(sorted, entries)]
        return self.validate(tuple(map(active_of, entries)))

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """A random neighbor: one slot that has a choice chooses something else (itself if there is no such slot)."""
        others = list(self.neighbors(architecture))
        return others[int(torch.randint(len(others), (), generator=generator))] if others else architecture

    def neighbors(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures that differ from this one in exactly one slot."""
        self.validate(architecture)
        for i, slot in enumerate(self.slots):
            own = open_branches(architecture[i], len(slot.choices))
            for entry in self.entries(i):
                if indices_of(entry) != own:
                    yield (*architecture[:i], entry, *architecture[i + 1 :])

    def enumerate(self) -> Iterator[Architecture]:
        """All ``size`` architectures in lexicographic order, the last slot changing fastest."""
        return itertools.product(*map(self.entries, range(len(self.slots))))

    def networks(self) -> Iterator[Architecture]:
        """All different networks: the architectures that are their own canonical form."""
        return (architecture for architecture in self.enumerate() if self.canonical(architecture) == architecture)

    def describe(self, architecture: Architecture) -> str:
        """``architecture`` in the names of its choices, for people: ``conv3, skip``."""
        return ", ".join(slot.named(entry) for slot, entry in zip(self.slots, architecture, strict=True))


def in_order(architecture: Architecture) -> list[tuple[int, ...]]:
    """What sorts architectures lexicographically; entries of one and of several open branches compare."""
    return [*map(indices_of, architecture)]


@lru_cache
def _entries(count: int, numbers: tuple[int, ...]) -> tuple[Active, ...]:
    found = (indices for n in numbers for indices in itertools.combinations(range(count), n))
    return tuple(map(active_of, sorted(found)))


def _drawn(count: int, numbers: tuple[int, ...], draws: list[float]) -> Active:
    """The entry that numbers from 0 to 1 fall on: the first on how many are open, the others on one branch each."""
    rest = list(range(count))
    number = numbers[int(draws[0] * len(numbers))]
    return active_of(sorted(rest.pop(int(draw * len(rest))) for draw in draws[1 : 1 + number]))
