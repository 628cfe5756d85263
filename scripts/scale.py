"""What a gated step costs on 1, 2 and 4 processes here, against the model of it; and what the model says of clusters.

    python scripts/scale.py --rounds 30 --out FOLDER
    python scripts/scale.py --rounds 30 --wide [--link 5gbit]

Prints the tables of docs/processes.md, and writes them to FOLDER for ``scripts/docs_figures.py --take``. The last ones
are on paper: nothing of them was measured. ``--wide`` measures a network of 19 MB instead, with its gradients summed
while the backward pass runs and at its end; ``--link`` gives the processes a network of their own (Linux: unshare, tc
of iproute2) whose loopback passes so much for all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter, process_time, thread_time

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from nas.bench.compare import machine
from nas.bench.dist import BATCH, CHOICES, GATED, SIDE, UNUSED, gated_step, in_processes, steps
from nas.bench.gating import Call, plain_step, random_batch, slots_space, standalone_slots, with_weights_of
from nas.bench.scale import Link, Network, eight_slots, gated_ms, tree, union_share, unused_ms
from nas.dist import GradientExchange, World
from nas.dist.gradients import pack

COMPUTE, AT_THE_END = "compute", "gated, everything sent at the end"
WIDTH, WIDE_SIDE = 256, 4
"""Channels and pixels of the wide network of 8 slots, whose gradients are 19 MB."""
SIZES = (1_000, 10_000, 100_000, 1_000_000, 4_000_000, 20_000_000)
"""Bytes of the messages that a link is measured with."""
RANKS = (1, 2, 4)
PAPER_RANKS = (8, 64, 1024)
# A supernet of a mobile network: 6.4 M parameters open in float32, three quarters of them in 20 slots of K branches of
# 6 tensors each, 100 ms of forward and backward a step; ours is not run at this size anywhere.
OPEN_BYTES, SLOTS_SHARE, SLOTS, TENSORS, COMPUTE_MS = 25.6e6, 0.75, 20, 6, 100.0
LINKS = {
    "scale_400g": ("400 Gbit/s a GPU, 10 us a hop", 0.01, 45e6),
    "scale_10g": ("10 Gbit/s a GPU, 30 us a hop", 0.03, 1.2e6),
}


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


def measure_link(ranks: int, rounds: int) -> Link:
    """The straight line through the median times of sums of several sizes, each weighted by its relative error.

    To copy into the message is part of it. The core that copies is missing in the backward pass; those that send are if
    there are fewer than two for each process.
    """
    times, copying, working = in_processes(ranks, _sums, rounds)[0]
    slope, latency = np.polyfit(SIZES, times, 1, w=1 / np.array(times))
    cores = os.cpu_count() or 1
    core = copying if cores >= 2 * ranks else working * max(1.0, ranks / cores)
    return Link(float(latency), float(1 / slope), min(1.0, core))


def _sums(world: World, rounds: int) -> tuple[list[float], float, float]:
    def call(size: int) -> Callable[[], object]:
        tensor = torch.zeros(size // 4)
        return lambda: world.sum_(pack([tensor])[0])

    times, largest = list(_medians({str(size): call(size) for size in SIZES}, rounds).values()), call(max(SIZES))
    began = perf_counter(), thread_time(), process_time()
    for _ in range(rounds):
        largest()
    wall, thread, process = (
        now - then for now, then in zip((perf_counter(), thread_time(), process_time()), began, strict=True)
    )
    return times, thread / wall, process / wall


def paper_network(choices: int) -> Network:
    """The network above with ``choices`` branches a slot."""
    in_slots = OPEN_BYTES * SLOTS_SHARE
    return Network(OPEN_BYTES, OPEN_BYTES - in_slots + choices * in_slots, SLOTS * TENSORS * choices)


def table(title: str, *columns: str) -> Table:
    """An empty table as Markdown can take it."""
    shown = Table(title=title, title_justify="left")
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)
    return shown


def rows_of(shown: Table) -> dict[str, list[object]]:
    """A table as docs/data/ keeps it."""
    rows = zip(*(column.cells for column in shown.columns), strict=True)
    return {"columns": [str(column.header) for column in shown.columns], "rows": [list(row) for row in rows]}


def off(model: float, measured: float) -> list[str]:
    """Cells: the measurement, the model, and how far the model is off."""
    return [f"{measured:.1f}", f"{model:.1f}", f"{model / measured - 1:+.0%}"]


def wide(links: dict[int, Link], rounds: int) -> Table:
    """The network of 19 MB: both ways of summing, and the model of both."""
    title = "Steps of 8 slots with 19 MB of gradients in ms, measured and by the model"
    shown = table(title, "processes", "compute", "at the end", "model", "off", "overlapping", "model", "off", "ratio")
    network = eight_slots(2, WIDTH)
    for ranks in RANKS:
        ms, link = measure_wide(ranks, rounds), links.get(ranks)
        cells = off(gated_ms(ms[COMPUTE], network, link, math.inf), ms[AT_THE_END])
        cells += off(gated_ms(ms[COMPUTE], network, link), ms[GATED])
        shown.add_row(str(ranks), f"{ms[COMPUTE]:.1f}", *cells, f"{ms[GATED] / ms[AT_THE_END]:.2f}")
    return shown


def on_a_link(rate: str) -> None:
    """Begin again in a network of this process's own, whose loopback passes ``rate``."""
    shaped = f"ip link set lo up && tc qdisc add dev lo root tbf rate {rate} burst 256kb latency 200ms"
    command = [sys.executable, *sys.argv, "--link", ""]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    os.execvpe("unshare", ["unshare", "-rn", "sh", "-c", f'{shaped} && exec "$@"', "sh", *command], environment)


def main() -> None:
    """Measure, compare, extrapolate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds of each measurement")
    parser.add_argument("--out", type=Path, help="folder for the tables as JSON")
    parser.add_argument("--wide", action="store_true", help="the network of 19 MB, and nothing else")
    parser.add_argument("--link", default="", help="a rate as tc writes it, 5gbit for example")
    asked = parser.parse_args()
    if asked.link:
        on_a_link(asked.link)
    rounds, out = asked.rounds, Console(width=120)

    def show(name: str, shown: Table) -> None:
        out.print(shown)
        if asked.out:
            asked.out.mkdir(parents=True, exist_ok=True)
            (asked.out / f"{name}.json").write_text(json.dumps(rows_of(shown)))

    links = {ranks: measure_link(ranks, rounds) for ranks in RANKS if ranks > 1}
    shown = table("Links, measured", "processes", "latency ms", "MB/s", "core")
    for ranks, link in links.items():
        shown.add_row(str(ranks), f"{link.latency_ms:.2f}", f"{link.bytes_per_ms / 1000:,.0f}", f"{link.core:.0%}")
    show("scale_wide_links" if asked.wide else "scale_links", shown)
    about = machine()
    measured_on = f"{about['cpu']}; {os.cpu_count()} cores; torch {about['torch']}; medians of {rounds}"
    if asked.wide:
        show("scale_wide", wide(links, rounds))
        out.print(measured_on, highlight=False)
        return

    found = {(ranks, k): measure_step(ranks, k, rounds) for ranks in RANKS for k in CHOICES}
    # What looking for unused parameters takes is fitted once, on one process, where nothing is sent.
    apart = [(found[1, k][UNUSED] - found[1, k][COMPUTE], eight_slots(k).tensors) for k in CHOICES]
    search_ms = sum(ms * tensors for ms, tensors in apart) / sum(tensors**2 for _, tensors in apart)
    title = f"Steps of 8 slots in ms, measured and by the model; a search of {1000 * search_ms:.1f} us a tensor"
    shown = table(title, "processes", "K", "compute", "gated", "model", "off", "find_unused", "model", "off")
    for (ranks, k), ms in found.items():
        network, link = eight_slots(k), links.get(ranks)
        ours, theirs = gated_ms(ms[COMPUTE], network, link), unused_ms(ms[COMPUTE], network, link, search_ms)
        shown.add_row(str(ranks), str(k), f"{ms[COMPUTE]:.1f}", *off(ours, ms[GATED]), *off(theirs, ms[UNUSED]))
    show("scale_steps", shown)
    out.print(measured_on, highlight=False)

    for name, (speed, hop_ms, bytes_per_ms) in LINKS.items():
        title = f"On paper: {COMPUTE_MS:.0f} ms of compute, {OPEN_BYTES / 1e6:.1f} MB open; {speed}"
        shown = table(title, "GPUs", "K", "gated ms", "own paths ms", "find_unused ms", "its sum hidden ms")
        for ranks in PAPER_RANKS:
            link = tree(ranks, hop_ms, bytes_per_ms)
            for k in CHOICES:
                network = paper_network(k)
                union = network.all_bytes - OPEN_BYTES * SLOTS_SHARE * k * (1 - union_share(k, ranks))
                own = gated_ms(COMPUTE_MS, Network(union, network.all_bytes, network.tensors), link, math.inf)
                theirs = unused_ms(COMPUTE_MS, network, link, search_ms)
                hidden = max(COMPUTE_MS, COMPUTE_MS / 3 + link.sum_ms(network.all_bytes)) + network.tensors * search_ms
                cells = (gated_ms(COMPUTE_MS, network, link), own, theirs, hidden)
                shown.add_row(f"{ranks:,}", str(k), *(f"{ms:,.0f}" for ms in cells))
        show(name, shown)


if __name__ == "__main__":
    main()
