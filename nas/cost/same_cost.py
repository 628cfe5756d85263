"""The networks of the same cost as another: what a found network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from nas.cost.flops_match import ENUMERATED
from nas.seeds import generator
from nas.space import Architecture, SearchSpace

SAME = 0.05
"""Largest relative difference at which two costs count as the same."""


def networks_of(space: SearchSpace, seed: int) -> Iterator[Architecture]:
    """The networks of a space by their canonical names, each once: all of up to 20,000, of more 20,000 random ones."""
    if space.size <= ENUMERATED:
        return space.networks()
    return iter(dict.fromkeys(map(space.canonical, space.sample_many(ENUMERATED, generator(seed, "networks")))))


def same_cost(
    space: SearchSpace, costs: Sequence[Callable[[Architecture], float]], architecture: Architecture, seed: int
) -> list[Architecture]:
    """The other networks of which each cost is that of ``architecture``, to within 5 %.

    Args:
        space: one open branch a slot.
        costs: by architecture.
        architecture: it is not among the networks found, under none of its names.
        seed: of what is looked at, where the space has more than 20,000 architectures.

    Returns:
        Canonical names, in lexicographic order.
    """
    wanted, own = [cost(architecture) for cost in costs], space.canonical(architecture)

    def matches(other: Architecture) -> bool:
        pairs = zip(costs, wanted, strict=True)
        return other != own and all(abs(cost(other) - value) <= SAME * value for cost, value in pairs)

    return sorted(filter(matches, networks_of(space, seed)))
