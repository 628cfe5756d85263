"""A model of what a step costs on N processes, and the measurements that it is held against.

A step of one process takes ``compute_ms``, two thirds of it in the backward pass. The sum of b bytes over N processes
takes latency(N) + b / bandwidth(N); during a share core(N) of that it needs a core that would compute. Messages leave
while the backward pass runs, all but the last, which is there when it ends:

    gated(N, K) = compute - backward + max(backward + core * sum(early), sum(early)) + sum(last)

The bytes are those of the open branches' gradients, so nothing in it depends on K, the number of branches a slot; a
network that sends less than :attr:`nas.dist.GradientExchange.message_bytes` sends the last message alone. A supernet
under DistributedDataParallel with ``find_unused_parameters`` sends the bytes of *all* its gradients, which grow with K,
and looks at every parameter tensor in every step:

    unused(N, K) = compute + sum(all K branches) + tensors(K) * search
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time, thread_time

import numpy as np
import torch
import torch.distributed as dist

from nas.bench.dist import BATCH, GATED, SIDE, UNUSED, gated_step, in_processes, parameter_bytes, steps
from nas.bench.gating import Call, plain_step, random_batch, slots_space, standalone_slots, with_weights_of
from nas.dist import GradientExchange, World
from nas.dist.gradients import pack

COMPUTE, AT_THE_END = "compute", "gated, everything sent at the end"
BACKWARD = 2 / 3
WIDTH, WIDE_SIDE = 256, 4
"""Channels and pixels of the wide network of 8 slots, whose gradients are 19 MB."""
SIZES = (1_000, 10_000, 100_000, 1_000_000, 4_000_000, 20_000_000)
"""Bytes of the messages that a link is measured with."""


@dataclass(frozen=True)
class Link:
    """What summing over some processes costs.

    Attributes:
        latency_ms: of a message without content.
        bytes_per_ms: of the sum of large tensors: their bytes, each counted once, divided by the time.
        core: in which share of that time a core works for it that would compute.
    """

    latency_ms: float
    bytes_per_ms: float
    core: float = 0.0

    def sum_ms(self, size: float) -> float:
        """Milliseconds of the sum of a tensor of ``size`` bytes."""
        return self.latency_ms + size / self.bytes_per_ms


@dataclass(frozen=True)
class Network:
    """The sizes that the model needs of a supernet with K branches a slot."""

    open_bytes: float
    all_bytes: float
    tensors: int


def gated_ms(
    compute_ms: float, network: Network, link: Link | None, message_bytes: float = GradientExchange.message_bytes
) -> float:
    """A gated step; ``link`` is None for one process. Infinite ``message_bytes``: everything is sent at the end."""
    if link is None:
        return compute_ms
    last = min(network.open_bytes, message_bytes)
    early_ms = link.sum_ms(network.open_bytes - last) if network.open_bytes > last else 0.0
    backward_ms = BACKWARD * compute_ms
    return compute_ms - backward_ms + max(backward_ms + link.core * early_ms, early_ms) + link.sum_ms(last)


def unused_ms(compute_ms: float, network: Network, link: Link | None, search_ms: float) -> float:
    """A step of the supernet under DistributedDataParallel with ``find_unused_parameters``, nothing overlapping."""
    return compute_ms + (link.sum_ms(network.all_bytes) if link else 0.0) + network.tensors * search_ms


def union_share(choices: int, ranks: int) -> float:
    """Expected share of the branches that ``ranks`` uniform paths open together: what ``dist.paths=own`` sends."""
    return 1 - (1 - 1 / choices) ** ranks


def tree(ranks: int, hop_ms: float, bytes_per_ms: float) -> Link:
    """A sum up and down a binary tree, in pieces: 2 log2(N) hops, and the bytes twice through every process's link."""
    return Link(2 * math.ceil(math.log2(ranks)) * hop_ms, bytes_per_ms / 2)


def eight_slots(choices: int, width: int = 16) -> Network:
    """The network of ``nas-bench suite=dist``, or a wider one."""
    space = slots_space(choices, width)
    opened, whole = (parameter_bytes(network) for network in (space.subnet((0,) * 8), space.supernet()))
    return Network(opened, whole, len(list(space.supernet().parameters())))


def measure_step(ranks: int, choices: int, rounds: int) -> dict[str, float]:
    """Median milliseconds, measured in turn: the compute alone, until the slowest process has done it, and both steps.

    More processes than cores take turns; so the compute of N processes is measured with all N at it.
    """
    return in_processes(ranks, _times, choices, rounds)[0]


def _times(world: World, choices: int, rounds: int) -> dict[str, float]:
    every = steps(world, choices)
    alone = plain_step(
        with_weights_of(standalone_slots(), slots_space(choices).subnet((0,) * 8)), *random_batch(BATCH, SIDE)
    )
    return _with_compute(alone, {GATED: every[GATED], UNUSED: every[UNUSED]}, rounds)


def measure_wide(ranks: int, rounds: int) -> dict[str, float]:
    """The same of a network of 19 MB: the compute, the gated step, and that which sends everything at the end."""
    return in_processes(ranks, _wide_times, rounds)[0]


class _AtTheEnd(GradientExchange):
    message_bytes = math.inf


def _wide_times(world: World, rounds: int) -> dict[str, float]:
    space, (x, y) = slots_space(2, WIDTH), random_batch(BATCH, WIDE_SIDE)
    gated = {
        name: gated_step(world, space, x, y, "same", how)
        for name, how in ((GATED, GradientExchange), (AT_THE_END, _AtTheEnd))
    }
    return _with_compute(plain_step(space.subnet((0,) * 8), x, y), gated, rounds)


def _with_compute(alone: Call, others: Mapping[str, Call], rounds: int) -> dict[str, float]:
    def until_all_have() -> None:
        alone()
        dist.barrier()

    found = _medians({"barrier": dist.barrier, COMPUTE: until_all_have, **others}, rounds)
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
    """The straight line through the median times of sums of several sizes, each weighted by its relative error.

    To copy into the message is part of it. The core that copies is missing in the backward pass; those that send are if
    there are fewer than two for each process.
    """
    times, copying, working = in_processes(ranks, _sums, rounds, tuple(sizes))[0]
    slope, latency = np.polyfit(sizes, times, 1, w=1 / np.array(times))
    cores = os.cpu_count() or 1
    core = copying if cores >= 2 * ranks else working * max(1.0, ranks / cores)
    return Link(float(latency), float(1 / slope), min(1.0, core))


def _sums(world: World, rounds: int, sizes: Sequence[int]) -> tuple[list[float], float, float]:
    def call(size: int) -> Callable[[], object]:
        tensor = torch.zeros(size // 4)
        return lambda: world.sum_(pack([tensor])[0])

    times, largest = list(_medians({str(size): call(size) for size in sizes}, rounds).values()), call(max(sizes))
    began = perf_counter(), thread_time(), process_time()
    for _ in range(rounds):
        largest()
    wall, thread, process = (
        now - then for now, then in zip((perf_counter(), thread_time(), process_time()), began, strict=True)
    )
    return times, thread / wall, process / wall
