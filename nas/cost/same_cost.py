"""Random other networks, such as those of the same cost: what a found network has to beat."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from nas.cost.flops_match import ENUMERATED
from nas.seeds import derive, generator
from nas.space import Architecture, SearchSpace, in_order

SAME = 0.05
"""Largest relative difference at which two costs count as the same."""
FEW = 100
"""Of a large space: with fewer hits among 20,000 samples, a random walk looks for more."""
Test = Callable[[Architecture], bool]


def same_cost(costs: Sequence[Callable[[Architecture], float]], architecture: Architecture) -> Test:
    """Whether an architecture has each cost of ``architecture``, to within 5 %."""
    wanted = [(cost, cost(architecture)) for cost in costs]
    return lambda other: all(abs(cost(other) - value) <= SAME * value for cost, value in wanted)


def other_networks(space: SearchSpace, architecture: Architecture, test: Test, seed: int) -> list[Architecture]:
    """The other networks that pass a test, in random order.

    Of a space of up to 20,000 architectures these are all. Of a larger one they are those among 20,000 samples; if
    few of the samples pass, as of costs near the smallest, a random walk from ``architecture`` looks for more. It
    changes two slots a step and stays among those that pass, so that it visits all that it can reach equally often.

    Args:
        space: of the networks.
        architecture: passes the test, and is not among the networks found, under none of its names.
        test: of one architecture.
        seed: of the samples, the walk and the order.

    Returns:
        Canonical names.
    """
    if space.size <= ENUMERATED:
        found = set(filter(test, space.networks()))
    else:
        samples = space.sample_many(ENUMERATED, generator(seed, "networks"))
        found = set(filter(test, map(space.canonical, samples)))
        if len(found) < FEW:
            found |= _walk(space, architecture, test, seed)
    order = sorted(found - {space.canonical(architecture)}, key=in_order)
    random.Random(derive(seed, "order of networks")).shuffle(order)
    return order


def _walk(space: SearchSpace, start: Architecture, test: Test, seed: int) -> set[Architecture]:
    rng, now = random.Random(derive(seed, "walk")), list(start)
    seen = set[Architecture]()
    for _ in range(ENUMERATED):
        step = list(now)
        for _ in range(2):
            slot = rng.randrange(len(space.slots))
            entries = space.entries(slot)
            step[slot] = entries[rng.randrange(len(entries))]
        if test(tuple(step)):
            now = step
            seen.add(space.canonical(tuple(now)))
    return seen
