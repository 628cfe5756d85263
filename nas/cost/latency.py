"""How long a network takes on this machine."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCKS = 5
"""Runs are timed in blocks, so long that the clock does not matter; quartiles need several of them."""


@dataclass(frozen=True)
class Latency:
    """What a measurement found."""

    median_ms: float
    """Of one run."""
    iqr_ms: float
    """Between the first and the third quartile of the blocks of runs."""
    runs: int


def latency(network: nn.Module, x: Tensor, min_run_s: float = 0.2, threads: int = 1) -> Latency:
    """Forward time of ``network`` on ``x``, in eval and inference mode; its own modes come back afterwards.

    Args:
        network: ``forward(x)``; for a path of a supernet, what :func:`nas.space.extract` gives.
        x: ``(B, C, H, W)``, on the device of the network, whose work is waited for.
        min_run_s: seconds to measure for, at least; a first run is not counted.
        threads: of torch on the CPU, while measuring.
    """
    from torch.utils.benchmark import Timer  # it looks for a compiler, and tells everybody who has no GPU

    assert min_run_s > 0, min_run_s
    modes = {module: module.training for module in network.modules()}  # a part may be frozen
    network.eval()
    try:
        with torch.inference_mode():
            timer = Timer("network(x)", globals={"network": network, "x": x}, num_threads=threads)
            first = timer.blocked_autorange(min_run_time=min_run_s)
            more = [timer.timeit(first.number_per_run) for _ in range(BLOCKS - len(first.times))]
    finally:
        for module, training in modes.items():
            module.training = training
    times = [1000 * time for found in (first, *more) for time in found.times]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(median, high - low, len(times) * first.number_per_run)
