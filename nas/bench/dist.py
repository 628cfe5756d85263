"""What a gated step costs on several processes, next to the stand-alone network under DistributedDataParallel."""

from __future__ import annotations

import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from rich.table import Table
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nas.bench.compare import Ratio, Row, by_number, interleave, measured, ratio_table
from nas.bench.gating import SGD, Call, random_batch, slots_space, standalone_slots, stock_step, with_weights_of
from nas.cost.allocator import keep_freed_memory
from nas.dist import GradientExchange, World
from nas.gate import UniformGate
from nas.settings import DistSettings
from nas.space import SearchSpace
from nas.train import GatedOptimizer, TrainStep

RANKS, BATCH, SIDE = 2, 16, 16
CHOICES = (2, 8, 32)
DDP = "stand-alone network under DDP"
WITH_BUFFERS = "stand-alone, BatchNorm's statistics sent"
GATED, OWN = "gated", "gated, dist.paths=own"
UNUSED = "supernet, find_unused_parameters"
BAR = 1.15
T = TypeVar("T")


def in_processes(number: int, work: Callable[..., T], *args: object) -> list[T]:
    """Run ``work(world, *args)`` in ``number`` fresh processes that talk through gloo, one thread each; all results."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(number, mp_context=context) as pool:
            # Each worker gets one task: no task ends before all have begun.
            store = str(Path(folder) / "store")
            tasks = [pool.submit(_join, store, rank, number, work, args) for rank in range(number)]
            return [task.result() for task in tasks]


def _join(store: str, rank: int, number: int, work: Callable[..., T], args: tuple[object, ...]) -> T:
    keep_freed_memory()
    torch.set_num_threads(1)
    wait = timedelta(minutes=10)
    dist.init_process_group("gloo", store=dist.FileStore(store, number), rank=rank, world_size=number, timeout=wait)
    try:
        return work(World(rank, number, rank), *args)
    finally:
        dist.destroy_process_group()


def steps(world: World, choices: int) -> dict[str, Call]:
    """The steps that are compared, each with networks of its own: 8 slots of ``choices`` x conv3x3-BN-ReLU."""
    x, y = random_batch(BATCH, SIDE)
    space = slots_space(choices)
    alone = with_weights_of(standalone_slots(), space.subnet((0,) * 8))
    lean, usual = _ddp(alone), DistributedDataParallel(with_weights_of(standalone_slots(), space.subnet((0,) * 8)))
    calls: dict[str, Call] = {
        DDP: stock_step(lean, lambda: lean(x), y),
        WITH_BUFFERS: stock_step(usual, lambda: usual(x), y),
        GATED: gated_step(world, space, x, y, "same"),
        OWN: gated_step(world, space, x, y, "own"),
    }
    gate, number = UniformGate(space, 0), iter(range(10**9))
    whole = _ddp(space.supernet(), find_unused_parameters=True)
    calls[UNUSED] = stock_step(whole, lambda: whole(x, gate.paths(next(number))[0]), y)
    return calls


def _ddp(network: nn.Module, find_unused_parameters: bool = False) -> DistributedDataParallel:
    """DistributedDataParallel that, as we do, leaves the statistics of BatchNorm to each process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch is about to rename the option
        return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=find_unused_parameters)


def gated_step(
    world: World,
    space: SearchSpace,
    x: Tensor,
    y: Tensor,
    paths: str,
    exchange: type[GradientExchange] = GradientExchange,
) -> Call:
    """Our step: forward, backward, the sum over the processes, update; on new paths in every step."""
    supernet, gate, number = space.supernet(), UniformGate(space, 0), iter(range(10**9))
    optimizer = GatedOptimizer(supernet, SGD)
    train_step = TrainStep(supernet, optimizer, exchange=exchange(world, optimizer, DistSettings(paths=paths)))

    def step() -> object:
        n = next(number)
        first = n * world.size if paths == "own" else n
        each = [gate.paths(first + rank)[0] for rank in range(world.size if paths == "own" else 1)]
        own = [each[world.rank]] if paths == "own" else each
        return train_step((x, y), own, SGD.lr, n, each)

    return step


def compare(world: World, choices: int, rounds: int) -> dict[str, Ratio]:
    """Time the steps in turn, in step with the other processes."""
    return interleave(DDP, steps(world, choices), rounds)


def travelling(choices: int) -> dict[str, int]:
    """Bytes of the gradients that are summed in a step: of the open branches, and of the whole supernet."""
    space = slots_space(choices)
    return {GATED: parameter_bytes(space.subnet((0,) * 8)), UNUSED: parameter_bytes(space.supernet())}


def parameter_bytes(network: nn.Module) -> int:
    """What all parameters of ``network`` take."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def dist_suite(rounds: int, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything and return plain data; ``say`` is called with what comes next."""
    assert threads == 1, "each process has one thread"
    found: dict[str, dict[str, Ratio]] = {}
    for k in CHOICES:
        say(f"8 slots, K = {k}, {RANKS} processes")
        found[str(k)] = in_processes(RANKS, compare, k, rounds)[0]
    network = f"8 slots, {RANKS} gloo processes, batch {BATCH} each"
    rows = [
        Row(network, what, {k: ratios[what] for k, ratios in found.items()}, bars)
        for what, bars in ((GATED, dict.fromkeys(found, BAR)), (OWN, {}), (UNUSED, {}), (WITH_BUFFERS, {}))
    ]
    sent, ms = {str(k): travelling(k) for k in CHOICES}, {k: ratios[DDP].ms for k, ratios in found.items()}
    return measured("dist", rounds, rows, bytes=sent, baseline_ms=ms)


def dist_table(result: dict[str, Any]) -> Table:
    """The result for a terminal, and what is sent."""
    shown = ratio_table(f"Step time / that of the {DDP}", result, by_number(CHOICES))
    for what in (GATED, UNUSED):
        sent = [f"{result['bytes'][str(k)][what] / 1000:,.0f} kB" for k in CHOICES]
        shown.add_row(f"  sent: {what}", *sent)
    return shown
