"""Supernets that are slots in a row, which can be run piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nas.errors import SpaceError
from nas.space.base import Architecture, Slot

Norm = nn.modules.batchnorm._BatchNorm


class Chained(nn.Module):
    """A supernet in which each slot takes what the slot before it gave, and nothing else.

    To derive from it, assign ``blocks`` and write ``prologue`` and ``epilogue``. Subnetworks whose architectures
    begin alike then share that work where many are evaluated (:class:`nas.search.Evaluator`). For that

    - ``blocks[i](x, entry)`` is the slot of an architecture's i-th entry; each piece takes and gives one tensor
      with the batch in dimension 0;
    - a BatchNorm belongs to one piece alone.
    """

    blocks: nn.ModuleList

    @property
    def entries(self) -> list[int]:
        """For each piece, how many entries of an architecture its output depends on, those of earlier pieces too."""
        return [*range(len(self.blocks) + 1), len(self.blocks)]

    def prologue(self, x: Tensor) -> Tensor:
        """From the images to the input of the first block."""
        raise NotImplementedError

    def epilogue(self, x: Tensor) -> Tensor:
        """From the output of the last block to the logits ``(B, classes)``."""
        raise NotImplementedError

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        x = self.prologue(x)
        for block, active in zip(self.blocks, architecture, strict=True):
            x = block(x, active)
        return self.epilogue(x)

    def piece(self, number: int, x: Tensor, architecture: Architecture) -> Tensor:
        """One piece of ``forward``: 0 is the prologue, ``i + 1`` block i, and the last one the epilogue."""
        if number == 0:
            return self.prologue(x)
        if number > len(self.blocks):
            return self.epilogue(x)
        y: Tensor = self.blocks[number - 1](x, architecture[number - 1])
        return y


@dataclass
class Piece:
    """What an evaluator must know about a piece to run it by itself."""

    entries: int
    """How many entries of an architecture its output depends on."""
    norms: list[Norm] = field(default_factory=list)
    """Its BatchNorm layers with running statistics, in all choices."""
    image_bytes: int = 0
    """Bytes of its output for one image."""
    changes_input: bool = False
    """Whether it writes to its input, as ``nn.ReLU(inplace=True)`` does where it comes first."""


@torch.no_grad()
def survey(supernet: Chained, slots: tuple[Slot, ...], x: Tensor) -> list[Piece]:
    """Run each choice of each slot once on the images ``x``, and check the contract of :class:`Chained`.

    Args:
        supernet: in eval mode.
        slots: of its space.
        x: a few images ``(B, C, H, W)``.

    Raises:
        SpaceError: the pieces in a row are not ``forward``, or one of them cannot be run by itself.
    """
    if (blocks := supernet.entries[-1]) != len(slots):
        raise _broken(supernet, f"has {blocks} blocks for {len(slots)} slots", "give each slot a block")
    pieces, homes = [Piece(entries) for entries in supernet.entries], _Homes(supernet)
    for choice in range(max(len(slot.choices) for slot in slots)):
        architecture = tuple(min(choice, len(slot.choices) - 1) for slot in slots)
        expected, y = supernet(x.clone(), architecture), x.clone()
        with homes:
            for number, piece in enumerate(pieces):
                homes.piece, before, version = number, y, y._version
                y = supernet.piece(number, y, architecture)
                if not isinstance(y, Tensor):
                    raise _broken(supernet, f"piece {number} gives a {type(y).__name__}", "give one tensor")
                piece.changes_input |= before._version != version
                piece.image_bytes = max(piece.image_bytes, y.numel() * y.element_size() // len(x))
        if not torch.allclose(y, expected, rtol=0, atol=0, equal_nan=True):
            rule = f"forward gives something else than its pieces in a row on {architecture}"
            raise _broken(supernet, rule, "leave forward to Chained, or do not derive from it")
    for norm, number in homes.found.items():
        pieces[number].norms.append(norm)
    return pieces


class _Homes:
    """Watches, inside ``with``, which piece each BatchNorm belongs to."""

    def __init__(self, supernet: Chained) -> None:
        self._supernet, self.piece, self.found = supernet, 0, dict[Norm, int]()
        self._norms = [m for m in supernet.modules() if isinstance(m, Norm) and m.track_running_stats]
        for number, block in enumerate(supernet.blocks, start=1):  # some may run where several gates are open alone
            self.piece = number
            for module in block.modules():
                if isinstance(module, Norm) and module.track_running_stats:
                    self._note(module)

    def __enter__(self) -> None:
        self._hooks = [norm.register_forward_pre_hook(lambda norm, _: self._note(norm)) for norm in self._norms]

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, norm: nn.Module) -> None:
        assert isinstance(norm, Norm)
        if self.found.setdefault(norm, self.piece) != self.piece:
            rule = "uses a BatchNorm in two pieces, so that its statistics depend on both"
            raise _broken(self._supernet, rule, "give each piece a BatchNorm of its own")


def _broken(supernet: Chained, rule: str, remedy: str) -> SpaceError:
    return SpaceError("supernet", type(supernet).__name__, f"cannot be run piece by piece: {rule}", remedy)
