"""A model of what a step costs on N processes, and the measurements that it is held against.

A step of one process takes ``compute_ms``. The sum over N processes of b bytes adds

    latency_ms(N) + b / bandwidth(N)

and nothing else in a gated step depends on N; nothing at all in it depends on K, the number of branches a slot, since b
are the bytes of the open branches' gradients. A supernet under DistributedDataParallel with ``find_unused_parameters``
sends the bytes of *all* its gradients, which grow with K, and looks at every parameter tensor in every step:

    gated(N, K)  = compute(N) + latency(N) + bytes(open branches) / bandwidth(N)
    unused(N, K) = compute(N) + latency(N) + bytes(all K branches) / bandwidth(N) + tensors(K) * search
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
import torch.distributed as dist

from nas.bench.dist import BATCH, GATED, SIDE, UNUSED, in_processes, parameter_bytes, steps
from nas.bench.gating import Call, plain_step, random_batch, slots_space, standalone_slots, with_weights_of
from nas.dist import World

COMPUTE = "compute"
SIZES = (1_000, 10_000, 100_000, 1_000_000, 4_000_000)
"""Bytes of the messages that a link is measured with."""


@dataclass(frozen=True)
class Link:
    """What summing over some processes costs.

    Attributes:
        latency_ms: of a message without content.
        bytes_per_ms: of the sum of large tensors: their bytes, each counted once, divided by the time.
    """

    latency_ms: float
    bytes_per_ms: float

    def sum_ms(self, size: float) -> float:
        """Milliseconds of the sum of a tensor of ``size`` bytes."""
        return self.latency_ms + size / self.bytes_per_ms


@dataclass(frozen=True)
class Network:
    """The sizes that the model needs of a supernet with K branches a slot."""

    open_bytes: float
    all_bytes: float
    tensors: int


def gated_ms(compute_ms: float, network: Network, link: Link | None) -> float:
    """A gated step; ``link`` is None for one process."""
    return compute_ms + (link.sum_ms(network.open_bytes) if link else 0.0)


def unused_ms(compute_ms: float, network: Network, link: Link | None, search_ms: float) -> float:
    """A step of the supernet under DistributedDataParallel with ``find_unused_parameters``, nothing overlapping."""
    return compute_ms + (link.sum_ms(network.all_bytes) if link else 0.0) + network.tensors * search_ms


def union_share(choices: int, ranks: int) -> float:
    """Expected share of the branches that ``ranks`` uniform paths open together: what ``dist.paths=own`` sends."""
    return 1 - (1 - 1 / choices) ** ranks


def tree(ranks: int, hop_ms: float, bytes_per_ms: float) -> Link:
    """A sum up and down a binary tree, in pieces: 2 log2(N) hops, and the bytes twice through every process's link."""
    return Link(2 * math.ceil(math.log2(ranks)) * hop_ms, bytes_per_ms / 2)


def eight_slots(choices: int) -> Network:
    """The network of ``nas-bench suite=dist``."""
    space = slots_space(choices)
    opened, whole = (parameter_bytes(network) for network in (space.subnet((0,) * 8), space.supernet()))
    return Network(opened, whole, len(list(space.supernet().parameters())))


def measure_step(ranks: int, choices: int, rounds: int) -> dict[str, float]:
    """Median milliseconds, measured in turn: the compute alone, until the slowest process has done it, and both steps.

    More processes than cores take turns; so the compute of N processes is measured with all N at it.
    """
    return in_processes(ranks, _times, choices, rounds)[0]


def _times(world: World, choices: int, rounds: int) -> dict[str, float]:
    x, y = random_batch(BATCH, SIDE)
    alone = plain_step(with_weights_of(standalone_slots(), slots_space(choices).subnet((0,) * 8)), x, y)
    every = steps(world, choices)

    def until_all_have() -> None:
        alone()
        dist.barrier()

    calls: dict[str, Call] = {
        "barrier": dist.barrier,
        COMPUTE: until_all_have,
        GATED: every[GATED],
        UNUSED: every[UNUSED],
    }
    found = _medians(calls, rounds)
    return {**found, COMPUTE: found[COMPUTE] - found["barrier"]}


def _medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            dist.barrier()
            began = perf_counter()
            call()
            if number >= 2:
                times[name].append(1000 * (perf_counter() - began))
    return {name: statistics.median(found) for name, found in times.items()}


def measure_link(ranks: int, rounds: int, sizes: Sequence[int] = SIZES) -> Link:
    """The straight line through the median times of sums of several sizes, each weighted by its relative error."""
    times = in_processes(ranks, _sums, rounds, tuple(sizes))[0]
    slope, latency = np.polyfit(sizes, times, 1, w=1 / np.array(times))
    return Link(float(latency), float(1 / slope))


def _sums(world: World, rounds: int, sizes: Sequence[int]) -> list[float]:
    def call(size: int) -> Callable[[], object]:
        tensor = torch.zeros(size // 4)
        return lambda: world.sum_(tensor)

    return list(_medians({str(size): call(size) for size in sizes}, rounds).values())
