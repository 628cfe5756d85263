"""The gating suite as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from nas.bench import gating
from nas.bench.compare import Ratio, frame, in_sections, machine, spread
from nas.settings import LearnedGateSettings

BRANCHES = (2, 8, 32, 128)
EVERY = LearnedGateSettings().every


@dataclass(frozen=True)
class Row:
    """One line: a ratio for each number of branches, and the bar for each where there is one."""

    network: str
    what: str
    ratios: dict[int, Ratio]
    bars: dict[int, float]
    bound: str = "at most"


def gating_suite(rounds: int, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything and return plain data; ``say`` is called with what comes next."""
    two, slots = {}, {}
    for k in BRANCHES:
        say(f"two_branch, K = {k}")
        two[k] = gating.two_branch(k, rounds)
    for k in BRANCHES[:3]:
        say(f"8 slots, K = {k}")
        slots[k] = gating.eight_slots(k, rounds)
    say("data path")
    data = gating.data_path(rounds)
    say("whole loop")
    loop = gating.whole_loop(rounds, threads)
    two_bars, slot_bars = dict(zip(BRANCHES, (1.03, 1.05, 1.06, 1.10), strict=True)), {2: 1.05, 8: 1.07, 32: 1.10}
    rows = [
        *_rows("two_branch, batch 64", two, two_bars),
        *_rows("8 slots of conv3x3-BN-ReLU, batch 16", slots, slot_bars),
        Row("around the step, two_branch", "one batch of data / the step", {2: data}, {2: 0.08}),
        Row("around the step, two_branch", "nas-train's images/s / the bare step's", {2: loop}, {2: 0.90}, "at least"),
    ]
    return {"suite": "gating", "machine": machine(), "rounds": rounds, "rows": [asdict(row) for row in rows]}


def _rows(network: str, found: dict[int, dict[str, Ratio]], bars: dict[int, float]) -> list[Row]:
    learned_bars = {k: bar + 0.05 for k, bar in bars.items()}
    rows = [
        Row(network, "gated", {k: ratios["gated"] for k, ratios in found.items()}, bars),
        Row(network, "gated, gate learned", {k: _amortised(ratios) for k, ratios in found.items()}, learned_bars),
    ]
    names = [name for name in found[2] if name not in (gating.STANDALONE, "gated")]
    return rows + [Row(network, name, {k: r[name] for k, r in found.items() if name in r}, {}) for name in names]


def _amortised(ratios: dict[str, Ratio]) -> Ratio:
    """The cost of a weight step plus its share of a logit step, at the gate's default interval."""
    weights, logits = ratios["learned gate: weights alone"], ratios["learned gate: logits alone"]
    parts = {name: getattr(weights, name) + getattr(logits, name) / EVERY for name in ("median", "low", "high", "ms")}
    return Ratio(rounds=weights.rounds, **parts)


def gating_table(result: dict[str, Any]) -> Table:
    """The result for a terminal: medians over the rounds, with half of the distance between the quartiles."""
    shown = frame("Cost as a multiple of the stand-alone step", result)
    for k in BRANCHES:
        shown.add_column(f"K = {k}", justify="right", no_wrap=True)
    for row in in_sections(shown, result["rows"]):
        shown.add_row(f"  {row['what']}", *(_cell(row["ratios"].get(k)) for k in BRANCHES))
        if row["bars"]:
            bars = (f"{row['bars'][k]:.2f}      " if k in row["bars"] else "" for k in BRANCHES)
            shown.add_row(f"    {row['bound']}", *bars, style="dim")
    return shown


def _cell(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else spread(ratio)
