"""A random architecture of the same FLOPs: what a found one has to be better than."""

from __future__ import annotations

import torch

from nas.cost import PathFlops
from nas.nn import open_branches
from nas.seeds import generator
from nas.space import Architecture, SearchSpace

TOLERANCE = 0.02
"""Of the FLOPs: how far apart two architectures may be and still count as equal."""
ENUMERATED = 20_000
"""Architectures of a space that is looked at as a whole; of a larger one as many are drawn."""


def of_same_flops(space: SearchSpace, flops: PathFlops, architecture: Architecture, seed: int) -> Architecture | None:
    """One drawn from those within 2 % of the FLOPs of ``architecture``, or where there is none, from the nearest.

    Args:
        space, flops: of the architectures, one open branch a slot.
        architecture: the one to compare with; it is not drawn itself.
        seed: decides which one.

    Returns:
        It, or None where the space has no other.
    """
    draws = generator(seed, "same_flops")
    pool = list(space.enumerate()) if space.size <= ENUMERATED else space.sample_many(ENUMERATED, draws)
    own, target = _opened(space, architecture), flops(architecture)
    others = [(other, abs(flops(other) - target)) for other in pool if _opened(space, other) != own]
    if not others:
        return None
    nearest = min(apart for _, apart in others)
    equal = [other for other, apart in others if apart <= max(nearest, TOLERANCE * target)]
    return equal[int(torch.randint(len(equal), (), generator=draws))]


def _opened(space: SearchSpace, architecture: Architecture) -> list[tuple[int, ...]]:
    """The architecture in one form: 0 and (0,) are the same entry, (0, 1) and (1, 0) are too."""
    return [open_branches(entry, len(slot.choices)) for entry, slot in zip(architecture, space.slots, strict=True)]
