"""``suite=fast``: a step in every way of computing it, alone and gated, and the way that ``train.fast=auto`` takes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, cycle
from time import perf_counter
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from nas.bench.compare import Ratio, Row, device_of, measured, ratio_of, ratio_table, times_in_turn, wait
from nas.bench.gating import CPU, RESNET18, SGD, Call, random_batch, stock_step
from nas.data import Batch
from nas.data.ordered import memory_format
from nas.dist import autocast
from nas.nn.compiled import compile_branches
from nas.settings import (
    BenchSettings,
    CellSettings,
    ChainSettings,
    SpaceSettings,
    TrainSettings,
    TwoBranchSettings,
    Way,
)
from nas.space import Architecture, SearchSpace, build_space, extract
from nas.train import GatedOptimizer, Loss, TrainStep
from nas.train.fast import Trial, fastest

ALONE, GATED, BOTH = "stand-alone", "gated", "gated / stand-alone"
COLUMNS = {name: name for name in (ALONE, GATED, BOTH)}
EAGER, LAST, COMPILED, COMPILED_LAST = "eager", "channels_last", "compiled", "compiled, channels_last"
WAYS = {
    EAGER: Way(),
    LAST: Way(channels_last=True),
    COMPILED: Way(compile="branches"),
    COMPILED_LAST: Way(channels_last=True, compile="branches"),
}
SLOW = {"bf16, channels_last": Way(channels_last=True, precision="bf16")}
"""On a processor without instructions for it."""
PATHS = 2
"""On which each step is timed in turn: whole networks are compiled, one for each."""
CHOSEN, LONG = 3, 10**9
"""How often ``train.fast=auto`` chooses, and for a run of how many steps: it compiles for a long one alone."""
Times = dict[tuple[str, str], list[float]]
"""Seconds by round, by way and ``ALONE`` or ``GATED``."""


@dataclass(frozen=True)
class Network:
    """What is timed.

    Attributes:
        settings: of its space.
        images, side: of a batch.
        share: of the rounds that are asked for, one in so many.
        slow: as a whole it takes minutes to compile, and is compiled in one memory format alone.
        brief: leave out bf16, all threads, and what ``train.fast=auto`` takes.
        bar: of the compiled gated step / the compiled stand-alone step.
        device: where.
    """

    settings: SpaceSettings
    images: int = 64
    side: int = 32
    share: int = 1
    slow: bool = False
    brief: bool = False
    bar: float | None = 1.05
    device: torch.device = CPU

    @cached_property
    def space(self) -> SearchSpace:
        """Its architectures."""
        return build_space(self.settings, 3, self.side, 10)

    def supernet(self) -> nn.Module:
        """A new one."""
        return self.space.supernet().to(self.device)

    def batch(self) -> Batch:
        """Noise."""
        return random_batch(self.images, self.side, device=self.device)

    def paths(self, number: int) -> list[Architecture]:
        """Some of them: two have no branch in common, and as many as there are choices have each branch once."""
        sizes = [len(slot.choices) for slot in self.space.slots]
        turns = ([(slot + turn * size // number) % size for slot, size in enumerate(sizes)] for turn in range(number))
        return list(map(tuple, turns))


RESNET = "resnet18 of torchvision, 8 slots, 64x64, batch 32"
NETWORKS = {
    "two_branch, K = 2, batch 64": Network(TwoBranchSettings(branches=2), bar=None),
    "two_branch, K = 8, batch 64": Network(TwoBranchSettings(branches=8), brief=True, bar=None),
    "two_branch, K = 32, batch 64": Network(TwoBranchSettings(branches=32), brief=True, bar=None),
    "chain, batch 64": Network(ChainSettings()),
    "cell, one a stage, batch 64": Network(CellSettings(cells=1), share=4, slow=True),
    RESNET: Network(RESNET18, 32, 64, share=12, slow=True),
}
COMPILING = "seconds that compiling all branches takes"


def steps_of(network: Network, ways: Mapping[str, Way]) -> dict[tuple[str, str], Call]:
    """The steps of a network in some ways, on two paths in turn: of the supernet, and of the networks extracted."""
    paths, found = network.paths(PATHS), dict[tuple[str, str], Call]()
    x, y = network.batch()
    for name, way in ways.items():
        form, compiles = memory_format(way.channels_last), way.compile == "branches"
        supernet, batch = network.supernet().to(memory_format=form), (x.contiguous(memory_format=form), y)
        if not (network.slow and name == COMPILED):
            alone = [_alone(extract(supernet, path), batch, way) for path in paths]
            found[name, ALONE] = _in_turn(alone)
        if compiles:
            compile_branches(supernet)
        step = TrainStep(supernet, GatedOptimizer(supernet, SGD), Loss(precision=way.precision))
        found[name, GATED] = _in_turn([partial(step, batch, (path,), SGD.lr) for path in paths])
    return found


def _alone(network: nn.Module, batch: Batch, way: Way) -> Call:
    x, y = batch
    # In the frame of its own forward: Module.compile shares one with all modules, which holds eight of them.
    whole = torch.compile(network, dynamic=False) if way.compile == "branches" else network

    def forward() -> Tensor:
        with autocast(way.precision, x.device):
            logits: Tensor = whole(x)
        return logits.float()

    return stock_step(network, forward, y)


def _in_turn(calls: Sequence[Call]) -> Call:
    turns = cycle(calls)
    return lambda: next(turns)()


def _on(threads: int, call: Call) -> Call:
    def work() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        call()
        torch.set_num_threads(before)

    return work


def section(name: str, network: Network, rounds: int) -> Iterator[Row]:
    """The rows of a network: multiples of the eager stand-alone step, and of the gated step to the stand-alone one."""
    steps = steps_of(network, WAYS)
    times = times_in_turn(steps, max(3, rounds // network.share), PATHS)
    for way in WAYS:
        bar = network.bar if WAYS[way].compile == "branches" and (way, ALONE) in times else None
        yield _row(name, way, times, bar)
    every = [[seconds for (_, of), seconds in times.items() if of == side] for side in (ALONE, GATED)]
    alone, gated = (min(ways, key=statistics.median) for ways in every)
    yield Row(name, "both the fastest way", {BOTH: ratio_of(gated, alone)}, {BOTH: 1.05})
    if not network.brief:
        taken = [times[way, GATED] for way in chosen(network)]
        ratio = ratio_of([*chain(*taken)], gated * len(taken))
        yield Row(name, "train.fast=auto / the fastest way by hand", {GATED: ratio}, {GATED: 1.03})
        many, eager = os.cpu_count() or 1, {side: steps[EAGER, side] for side in (ALONE, GATED)}
        late = steps_of(network, SLOW)
        if network.device.type == "cpu":
            late |= {(f"{EAGER}, {many} threads", side): _on(many, call) for side, call in eager.items()}
        late |= {(EAGER, side): call for side, call in eager.items()}
        times = times_in_turn(late, max(3, rounds // (10 * network.share)), PATHS)
        yield from (_row(name, way, times) for way in dict.fromkeys(way for way, _ in late) if way != EAGER)


def _row(name: str, way: str, times: Times, bar: float | None = None) -> Row:
    found = {side: ratio_of(times[way, side], times[EAGER, ALONE]) for side in (ALONE, GATED) if (way, side) in times}
    if ALONE in found:
        found[BOTH] = ratio_of(times[way, GATED], times[way, ALONE])
    return Row(name, way, found, {} if bar is None else {BOTH: bar})


def chosen(network: Network) -> list[str]:
    """The ways that ``train.fast=auto`` takes, asked a few times."""
    train, batch = TrainSettings(threads=torch.get_num_threads()), network.batch()
    found = []
    for _ in range(CHOSEN):
        way, _ = fastest(train, Trial(network.supernet(), batch, network.paths(PATHS), Loss()), LONG)
        found.append(next(name for name, other in WAYS.items() if other == way))
    return found


def compiling(name: str, settings: BenchSettings) -> Iterator[Row]:
    """How long compiling takes in a fresh process, with nothing on the disk and with what the first one has left."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder}
        for what in ("nothing on the disk", "once more"):
            command = [sys.executable, "-m", "nas.bench.fast", name, str(settings.threads), settings.device]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            seconds = float(done.stdout)
            ratio = Ratio(seconds, seconds, seconds, 1, 1000 * seconds)
            yield Row(COMPILING, f"{name.split(',')[0]}, {what}", {GATED: ratio})


def main() -> None:
    """Print the seconds of one process."""
    torch.set_num_threads(int(sys.argv[2]))
    network = replace(NETWORKS[sys.argv[1]], device=torch.device(sys.argv[3]))
    supernet, batch = network.supernet(), network.batch()
    step = TrainStep(supernet, GatedOptimizer(supernet, SGD))
    compile_branches(supernet)
    marks = [perf_counter()]
    for _ in range(2):
        for path in network.paths(max(len(slot.choices) for slot in network.space.slots)):
            step(batch, (path,), SGD.lr)
        wait()
        marks.append(perf_counter())
    print(2 * marks[1] - marks[0] - marks[2])


def fast_suite(settings: BenchSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything and return plain data; ``say`` is called with what comes next.

    Raises:
        SettingError: there is no GPU, and one is asked for.
    """
    rows, device = list[Row](), device_of(settings)
    for name, network in NETWORKS.items():
        say(name)
        rows += section(name, replace(network, device=device), settings.rounds)
    for name, network in NETWORKS.items():
        if network.bar is not None:
            say(f"compiling, {name}")
            rows += compiling(name, settings)
    return measured("fast", settings.rounds, rows, columns=COLUMNS)


def fast_table(result: dict[str, Any]) -> Table:
    """The result for a terminal."""
    return ratio_table("Time of a step as a multiple of the eager stand-alone step's", result, result["columns"])


if __name__ == "__main__":
    main()
