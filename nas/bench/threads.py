"""Whether ``threads=auto`` finds the faster number of threads, on a quiet machine and beside a busy process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import Any

import torch
from rich.table import Table

from nas.bench.compare import Ratio, measured, ratio_of
from nas.bench.gating import gated_step, random_batch
from nas.bench.search import Row, search_table
from nas.settings import ChainSettings, TwoBranchSettings
from nas.space import build_space
from nas.threads import Threads

ROUNDS, STEPS = 10, 12
"""Rounds at most, and steps of a round on each number of threads, half of them before and half after the others."""
SPACES = {"two_branch": (TwoBranchSettings(), 64), "chain": (ChainSettings(), 64)}
"""By name, with the images of a batch."""


@contextmanager
def busy_process() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def threads_suite(rounds: int, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything and return plain data; ``say`` is called with what comes next."""
    rows = []
    for name, (space, images) in SPACES.items():
        step = gated_step(build_space(space), *random_batch(images, 32))
        for where, beside in (("nothing beside", nullcontext()), ("one core busy", busy_process())):
            say(f"{name}, {where}")
            with beside:
                found = choices(step, threads, min(rounds, ROUNDS))
            for what, ratio in found.items():
                figures = ratio.median, ratio.low, ratio.high, ratio.rounds
                rows.append(Row(f"{name}, batch {images}, {where}", what, *figures, 1.1 if what == "auto" else None))
    return measured("threads", min(rounds, ROUNDS), rows)


def choices(step: Callable[[], object], threads: int, rounds: int) -> dict[str, Ratio]:
    """The time of a step on the number that is chosen anew in each round, and on each, as a multiple of the better's.

    The better is the number whose steps took less time in the same round, after the choice.
    """
    times: dict[str, list[float]] = {"auto": [], "1 thread": [], f"{threads} threads": []}
    before = torch.get_num_threads()
    for _ in range(rounds):
        torch.set_num_threads(threads)
        with Threads("auto") as chooser:
            chooser.choose(lambda: step, spend_s=float("inf"))
        took = {1: 0.0, threads: 0.0}
        for number in (1, threads, threads, 1):
            torch.set_num_threads(number)
            step()
            began = perf_counter()
            for _ in range(STEPS // 2):
                step()
            took[number] += (perf_counter() - began) / STEPS
        times["auto"].append(took[chooser.chosen])
        times["1 thread"].append(took[1])
        times[f"{threads} threads"].append(took[threads])
    torch.set_num_threads(before)
    better = [min(pair) for pair in zip(times["1 thread"], times[f"{threads} threads"], strict=True)]
    return {name: ratio_of(own, better) for name, own in times.items()}


def threads_table(result: dict[str, Any]) -> Table:
    """The result for a terminal."""
    return search_table(result, "Time of a step as a multiple of that on the better number of threads")
