"""The gating suite as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table

from nas.bench import gating, loop
from nas.bench.compare import Ratio, Row, by_number, device_of, measured, ratio_table
from nas.settings import BenchSettings, ChainSettings, LearnedGateSettings, TwoBranchSettings

BRANCHES = (2, 4, 8, 32, 128)
LEARNED = LearnedGateSettings()
Found = dict[str, dict[str, Ratio]]
Cost = Callable[[int, int, torch.device], dict[str, Ratio]]


def gating_suite(settings: BenchSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything and return plain data; ``say`` is called with what comes next.

    Raises:
        SettingError: there is no GPU, and one is asked for.
    """
    rounds, device = settings.rounds, device_of(settings)

    def measure(network: str, cost: Cost, branches: tuple[int, ...]) -> Found:
        found = {}
        for k in branches:
            say(f"{network}, K = {k}")
            found[str(k)] = cost(k, rounds, device)
        return found

    two = measure("two_branch", gating.two_branch, (2, 8, 32, 128))
    slots = measure("8 slots", gating.eight_slots, (2, 8, 32))
    say("resnet18")
    resnet = {"4": gating.gated_resnet18(max(3, rounds // 4), device)}
    say("data path")
    data = loop.data_path(rounds, device)
    rows = [
        *_rows("two_branch, batch 64", two, (1.02, 1.02, 1.02, 1.03)),
        *_rows("8 slots of conv3x3-BN-ReLU, batch 16", slots, (1.03, 1.03, 1.04)),
        Row("resnet18 of torchvision, 8 slots, 64x64, batch 32", "gated", resnet, {"4": 1.03}),
        Row("around the step, two_branch", "one batch of data / the step", {"2": data}, {"2": 0.08}),
    ]
    for k, space in (("2", TwoBranchSettings()), ("4", ChainSettings())):
        say(f"whole loop, {space.name}")
        around, found = f"around the step, {space.name}", loop.whole_loop(space, rounds, settings.threads, device)
        rows.append(Row(around, loop.LOOP, {k: found[loop.LOOP]}, {k: 0.97}, "at least"))
        rows.append(Row(around, loop.LOGGING, {k: found[loop.LOGGING]}, {k: 0.02}))
    if device.type == "cpu":
        say("memory")
        rows.append(
            Row(around, "peak memory of a run, batch 256 / the stand-alone's", {"4": loop.memory(5)}, {"4": 1.1})
        )
    return measured("gating", rounds, rows)


def _rows(network: str, found: Found, bars: tuple[float, ...]) -> list[Row]:
    gated = {k: ratios["gated"] for k, ratios in found.items()}
    learned = {k: _amortised(ratios) for k, ratios in found.items()}
    rows = [
        Row(network, "gated", gated, dict(zip(found, bars, strict=True))),
        Row(network, "gated, gate learned", learned, dict(zip(found, (1.1 * bar for bar in bars), strict=True))),
    ]
    names = [name for name in found["2"] if name not in (gating.STANDALONE, "gated")]
    return rows + [Row(network, name, {k: r[name] for k, r in found.items() if name in r}) for name in names]


def _amortised(ratios: dict[str, Ratio]) -> Ratio:
    """The cost of a weight step plus its share of the comparisons of a run with the gate's default settings."""
    weights, compared = ratios["learned gate: weights alone"], ratios["learned gate: comparison alone"]
    share = (1 - LEARNED.warmup) / LEARNED.every
    parts = {name: getattr(weights, name) + share * getattr(compared, name) for name in ("median", "low", "high", "ms")}
    return Ratio(rounds=weights.rounds, **parts)


def gating_table(result: dict[str, Any]) -> Table:
    """The result for a terminal."""
    return ratio_table("Cost as a multiple of the stand-alone step", result, by_number(BRANCHES))
