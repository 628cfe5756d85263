"""A random architecture of the same FLOPs: the baseline that a found architecture has to beat."""

from __future__ import annotations

import torch

from nas.cost.flops import PathFlops
from nas.nn import open_branches
from nas.seeds import generator
from nas.space import Architecture, SearchSpace

TOLERANCE = 0.02
"""Largest relative difference in FLOPs at which two architectures count as equal."""
ENUMERATED = 20_000
"""Largest number of architectures that are all compared; of a larger space, as many are sampled."""


def flops_match(space: SearchSpace, flops: PathFlops, architecture: Architecture, seed: int) -> Architecture | None:
    """Draw an architecture with the FLOPs of another, to within 2 %, or with the nearest FLOPs if there is none.

    Args:
        space: where to draw from; the drawn architecture is canonical.
        flops: the FLOPs of the architectures of ``space``.
        architecture: the one to match; it is never drawn itself.
        seed: decides which one is drawn.

    Returns:
        The drawn architecture, or None if the space has no other.
    """
    draws = generator(seed, "same_flops")
    pool = space.enumerate() if space.size <= ENUMERATED else iter(space.sample_many(ENUMERATED, draws))
    networks = (other for other in pool if space.canonical(other) == other)
    own, target = _opened(space, space.canonical(architecture)), flops(architecture)
    others = [(other, abs(flops(other) - target)) for other in networks if _opened(space, other) != own]
    if not others:
        return None
    nearest = min(apart for _, apart in others)
    equal = [other for other, apart in others if apart <= max(nearest, TOLERANCE * target)]
    return equal[int(torch.randint(len(equal), (), generator=draws))]


def _opened(space: SearchSpace, architecture: Architecture) -> list[tuple[int, ...]]:
    """The open branches of each slot, whichever way the entry is written: 0 or (0,), (0, 1) or (1, 0)."""
    return [open_branches(entry, len(slot.choices)) for entry, slot in zip(architecture, space.slots, strict=True)]
