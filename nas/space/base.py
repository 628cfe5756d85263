"""What a search space is: slots with named choices, and a supernet in which they can be opened and closed."""

from __future__ import annotations

import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from nas.errors import ArchitectureError
from nas.nn import Active, active_of, indices_of, open_branches
from nas.seeds import weights
from nas.space.extract import extract

_FORM = re.compile(r"[0-9]{1,9}([+-][0-9]{1,9})*")

SHOWN = 4
"""Slots that are named where a space is printed."""

Architecture = tuple[Active, ...]
"""Which branches are open: one entry a slot, an index or (for several open gates) a tuple of indices."""


@dataclass(frozen=True)
class Slot:
    """A place in the supernet where one of several branches runs."""

    name: str
    choices: tuple[str, ...]


class SearchSpace(ABC):
    """A set of architectures and the supernet that holds them all.

    Args:
        name: of the space.
        slots: in the order of an architecture's entries.
    """

    def __init__(self, name: str, slots: tuple[Slot, ...]) -> None:
        self.name, self.slots = name, slots
        self._counts = torch.tensor([len(slot.choices) for slot in slots], dtype=torch.float64)

    def __repr__(self) -> str:
        slots = [f"{slot.name} ({len(slot.choices)})" for slot in self.slots[:SHOWN]]
        if len(self.slots) > SHOWN:
            slots.append(f"... {len(self.slots)} slots")
        size = f"{self.size:,}" if self.size < 10**12 else f"about 10^{math.log10(self.size):.0f}"
        return f"{type(self).__name__}({self.name}: {', '.join(slots)}; {size} architectures)"

    @property
    def size(self) -> int:
        """Number of architectures with one open branch a slot."""
        return math.prod(len(slot.choices) for slot in self.slots)

    @property
    def example(self) -> str:
        """An architecture as text, for messages."""
        return self.encode(tuple((i + 1) % len(slot.choices) for i, slot in enumerate(self.slots)))

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
        """An architecture with one open branch a slot, each choice of a slot equally likely."""
        return self.sample_many(1, generator)[0]

    def sample_many(self, number: int, generator: torch.Generator) -> list[Architecture]:
        """``number`` independent samples, in one draw."""
        draws = torch.rand(number, len(self.slots), generator=generator, dtype=torch.float64)
        return [tuple(row) for row in (draws * self._counts).long().tolist()]

    def validate(self, architecture: Architecture) -> Architecture:
        """``architecture`` itself, if it fits this space.

        Raises:
            ArchitectureError: a wrong number of entries, or an entry that its slot does not have.
        """
        if len(architecture) != len(self.slots):
            rule = f"must have one entry for each of the {len(self.slots)} slots of space {self.name}"
            raise ArchitectureError("architecture", architecture, rule, f"write for example {self.example}")
        for slot, entry in zip(self.slots, architecture, strict=True):
            try:
                open_branches(entry, len(slot.choices))
            except ArchitectureError as error:
                remedy = f"slot {slot.name} has 0 to {len(slot.choices) - 1}: {', '.join(slot.choices)}"
                raise ArchitectureError("architecture", architecture, f"entry {entry} {error.rule}", remedy) from None
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
        return self.validate(tuple(active_of([int(index) for index in entry.split("+")]) for entry in text.split("-")))

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """A random neighbor: one slot that has a choice chooses something else (itself if there is no such slot)."""
        others = list(self.neighbors(architecture))
        return others[int(torch.randint(len(others), (), generator=generator))] if others else architecture

    def neighbors(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures that differ from this one in exactly one slot."""
        self.validate(architecture)
        for i, slot in enumerate(self.slots):
            entry = open_branches(architecture[i], len(slot.choices))
            for choice in range(len(slot.choices)):
                if (choice,) != entry:
                    yield (*architecture[:i], choice, *architecture[i + 1 :])

    def enumerate(self) -> Iterator[Architecture]:
        """All ``size`` architectures with one open branch a slot, the last slot changing fastest."""
        return itertools.product(*(range(len(slot.choices)) for slot in self.slots))

    def networks(self) -> Iterator[Architecture]:
        """All different networks with one open branch a slot: the architectures that are their own canonical form."""
        return (architecture for architecture in self.enumerate() if self.canonical(architecture) == architecture)

    def describe(self, architecture: Architecture) -> str:
        """``architecture`` in the names of its choices, for people: ``conv3, skip``."""
        pairs = zip(self.slots, architecture, strict=True)
        return ", ".join("+".join(slot.choices[index] for index in indices_of(entry)) for slot, entry in pairs)
