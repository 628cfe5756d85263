"""What a gated step costs on 1, 2 and 4 processes here, against the model of it; and what the model says of clusters.

    python scripts/scale.py --rounds 30

Prints the tables of docs/processes.md. The last one is on paper: nothing of it was measured.
"""

from __future__ import annotations

import argparse
import os

from rich.console import Console
from rich.table import Table

from nas.bench.compare import machine
from nas.bench.dist import CHOICES, GATED, UNUSED
from nas.bench.scale import (
    COMPUTE,
    Network,
    eight_slots,
    gated_ms,
    measure_link,
    measure_step,
    tree,
    union_share,
    unused_ms,
)

RANKS = (1, 2, 4)
PAPER_RANKS = (8, 64, 1024)
# A supernet of a mobile network: 6.4 M parameters open in float32, three quarters of them in 20 slots of K branches of
# 6 tensors each, 100 ms of forward and backward a step; ours is not run at this size anywhere.
OPEN_BYTES, SLOTS_SHARE, SLOTS, TENSORS, COMPUTE_MS = 25.6e6, 0.75, 20, 6, 100.0
LINKS = {"400 Gbit/s a GPU, 10 us a hop": (0.01, 45e6), "10 Gbit/s a GPU, 30 us a hop": (0.03, 1.2e6)}


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


def main() -> None:
    """Measure, compare, extrapolate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds of each measurement")
    rounds = parser.parse_args().rounds
    out = Console(width=120)
    links = {ranks: measure_link(ranks, rounds) for ranks in RANKS if ranks > 1}
    shown = table("Links, measured", "processes", "latency ms", "MB/s")
    for ranks, link in links.items():
        shown.add_row(str(ranks), f"{link.latency_ms:.2f}", f"{link.bytes_per_ms / 1000:,.0f}")
    out.print(shown)

    found = {(ranks, k): measure_step(ranks, k, rounds) for ranks in RANKS for k in CHOICES}
    # What looking for unused parameters takes is fitted once, on one process, where nothing is sent.
    apart = [(found[1, k][UNUSED] - found[1, k][COMPUTE], eight_slots(k).tensors) for k in CHOICES]
    search_ms = sum(ms * tensors for ms, tensors in apart) / sum(tensors**2 for _, tensors in apart)
    title = f"Steps of 8 slots in ms, measured and by the model; a search of {1000 * search_ms:.1f} us a tensor"
    shown = table(title, "processes", "K", "compute", "gated", "model", "off", "find_unused", "model", "off")
    for (ranks, k), ms in found.items():
        network, link = eight_slots(k), links.get(ranks)
        ours, theirs = gated_ms(ms[COMPUTE], network, link), unused_ms(ms[COMPUTE], network, link, search_ms)
        cells = [f"{ms[GATED]:.1f}", f"{ours:.1f}", f"{ours / ms[GATED] - 1:+.0%}"]
        cells += [f"{ms[UNUSED]:.1f}", f"{theirs:.1f}", f"{theirs / ms[UNUSED] - 1:+.0%}"]
        shown.add_row(str(ranks), str(k), f"{ms[COMPUTE]:.1f}", *cells)
    out.print(shown)
    about = machine()
    out.print(f"{about['cpu']}; {os.cpu_count()} cores; torch {about['torch']}; medians of {rounds}", highlight=False)

    for name, (hop_ms, bytes_per_ms) in LINKS.items():
        title = f"On paper: {COMPUTE_MS:.0f} ms of compute, {OPEN_BYTES / 1e6:.1f} MB open; {name}"
        shown = table(title, "GPUs", "K", "gated ms", "own paths ms", "find_unused ms", "its sum hidden ms")
        for ranks in PAPER_RANKS:
            link = tree(ranks, hop_ms, bytes_per_ms)
            for k in CHOICES:
                network = paper_network(k)
                union = network.all_bytes - OPEN_BYTES * SLOTS_SHARE * k * (1 - union_share(k, ranks))
                own = gated_ms(COMPUTE_MS, Network(union, network.all_bytes, network.tensors), link)
                theirs = unused_ms(COMPUTE_MS, network, link, search_ms)
                hidden = max(COMPUTE_MS, COMPUTE_MS / 3 + link.sum_ms(network.all_bytes)) + network.tensors * search_ms
                cells = (gated_ms(COMPUTE_MS, network, link), own, theirs, hidden)
                shown.add_row(f"{ranks:,}", str(k), *(f"{ms:,.0f}" for ms in cells))
        out.print(shown)


if __name__ == "__main__":
    main()
