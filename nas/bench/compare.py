"""Timing things against each other on a machine that is never quiet."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

CALLS_A_TURN = 2


@dataclass(frozen=True)
class Ratio:
    """How long a variant takes, as a multiple of the baseline in the same round."""

    median: float
    low: float
    """First quartile over the rounds."""
    high: float
    """Third quartile."""
    rounds: int
    ms: float
    """Median time of one call in milliseconds."""


def interleave(
    baseline: str, variants: Mapping[str, Callable[[], object]], rounds: int, calls: int = CALLS_A_TURN
) -> dict[str, Ratio]:
    """Time ``variants`` in turn, ``rounds`` times round, each against ``baseline`` of its own round.

    In a turn a variant is called once untimed, to have its data at hand again, and ``calls`` times timed. The
    order moves on by one each round, so that nobody always comes after the same neighbour.
    """
    names = list(variants)
    for variant in variants.values():
        variant()
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            call = variants[name]
            call()
            started = perf_counter()
            for _ in range(calls):
                call()
            times[name].append((perf_counter() - started) / calls)
    return {name: _ratio(times[name], times[baseline]) for name in names}


def _ratio(times: list[float], baseline: list[float]) -> Ratio:
    ratios = [time / base for time, base in zip(times, baseline, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high, len(ratios), 1000 * statistics.median(times))


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return {
        "cpu": f"{name}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.system(),
    }
