"""A model of what a step costs on N processes; ``scripts/scale.py`` holds it against measurements.

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
from dataclasses import dataclass

from nas.bench.dist import parameter_bytes
from nas.bench.gating import slots_space
from nas.dist import GradientExchange

BACKWARD = 2 / 3
"""Of the forward and backward pass."""


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
