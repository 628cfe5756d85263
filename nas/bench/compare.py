"""Timing things against each other on a machine that is never quiet, and what the tables of all suites share."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch
from rich.table import Table

from nas.dist import set_cuda_flags
from nas.errors import require
from nas.settings import BenchSettings, TrainSettings

CALLS_A_TURN, CALLS_ON_A_GPU = 2, 10
K = TypeVar("K")


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
    baseline: str,
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    calls: int = 0,
    before: Callable[[], object] | None = None,
) -> dict[str, Ratio]:
    """Time ``variants`` in turn, ``rounds`` times round, each against ``baseline`` of its own round."""
    times = times_in_turn(variants, rounds, calls, before)
    return {name: ratio_of(times[name], times[baseline]) for name in variants}


def times_in_turn(
    variants: Mapping[K, Callable[[], object]],
    rounds: int,
    calls: int = 0,
    before: Callable[[], object] | None = None,
) -> dict[K, list[float]]:
    """Seconds of a call of each variant, by round.

    In a turn a variant is called once untimed, to bring its data back into the caches, and then ``calls`` times timed,
    by default twice; or ten times on a GPU, which is waited for before and after. The order moves on by one each
    round, so that no variant always follows the same one. ``before`` each turn, and once before all, comes what is not
    timed either.
    """
    names, calls = list(variants), calls or (CALLS_ON_A_GPU if torch.cuda.is_initialized() else CALLS_A_TURN)
    prepare = before or (lambda: None)
    prepare()
    for variant in variants.values():
        variant()
    times: dict[K, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            call = variants[name]
            prepare()
            call()
            wait()
            started = perf_counter()
            for _ in range(calls):
                call()
            wait()
            times[name].append((perf_counter() - started) / calls)
    return times


def device_of(settings: BenchSettings) -> torch.device:
    """Where to measure, with the flags of a run with default settings.

    Raises:
        SettingError: there is no GPU, and one is asked for.
    """
    device = torch.device(settings.device)
    ok = device.type == "cpu" or torch.cuda.is_available()
    require(ok, "device", settings.device, "there is none on this machine", "write device=cpu")
    set_cuda_flags(device, TrainSettings())
    return device


def wait() -> None:
    """Until a GPU, if this process uses one, has done what it was told."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Row:
    """One line of a table: ratios by the keys of the columns, such as the number of branches as text.

    Attributes:
        network: what is measured; heads a section of the table.
        bars: what the median may be, where there is such a bar.
        bound: which side of the bars is the good one.
    """

    network: str
    what: str
    ratios: dict[str, Ratio]
    bars: dict[str, float] = field(default_factory=dict)
    bound: str = "at most"


def measured(suite: str, rounds: int, rows: Sequence[object], **more: object) -> dict[str, Any]:
    """The result of a suite as plain data; ``rows`` are instances of a dataclass."""
    plain: list[Any] = [asdict(row) for row in rows]  # type: ignore[call-overload]
    return {"suite": suite, "machine": machine(), "rounds": rounds, "rows": plain, **more}


def by_number(branches: Sequence[int]) -> dict[str, str]:
    """The heads of columns for numbers of branches."""
    return {str(k): f"K = {k}" for k in branches}


def ratio_table(title: str, result: Mapping[str, Any], columns: Mapping[str, str]) -> Table:
    """The rows of a result: medians over the rounds with half of the distance between the quartiles, then the bars.

    ``columns`` are the heads of the columns by their keys.
    """
    shown = frame(title, result)
    for head in columns.values():
        shown.add_column(head, justify="right", no_wrap=True)
    for row in in_sections(shown, result["rows"]):
        ratios, bars = row["ratios"], row["bars"]
        shown.add_row(f"  {row['what']}", *(spread(ratios[k]) if k in ratios else "" for k in columns))
        if bars:
            cells = (f"{bars[k]:.2f}      " if k in bars else "" for k in columns)
            shown.add_row(f"    {row['bound']}", *cells, style="dim")
    return shown


def ratio_of(times: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """The ratio of times that were taken in the same rounds, in seconds."""
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
    gpu = {}
    if torch.cuda.is_initialized():
        card, cudnn = torch.cuda.get_device_properties(), torch.backends.cudnn.version()
        gpu["gpu"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB; CUDA {torch.version.cuda}, cuDNN {cudnn}"
    return gpu | {
        "cpu": f"{name}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.system(),
    }


def frame(title: str, result: Mapping[str, Any], left_out: Sequence[str] = ()) -> Table:
    """A table with its title, what it was measured on and what is missing, and one column, for the rows' names."""
    about = result["machine"]
    threads = "1 thread" if about["threads"] == "1" else f"{about['threads']} threads"
    shown = Table(title=f"{title}, {threads}", title_justify="left")
    shown.caption_justify = "left"
    caption = f"{about['gpu']}\n" if "gpu" in about else ""
    caption += f"{about['cpu']}; torch {about['torch']}, Python {about['python']}"
    shown.caption = "\n".join([caption, *(f"left out: {what}" for what in left_out)])
    shown.add_column("", no_wrap=True)
    return shown


def in_sections(table: Table, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, with a line and a heading put into ``table`` before the first of each ``network``."""
    for row, before in zip(rows, [None, *rows], strict=False):
        if before is None or row["network"] != before["network"]:
            table.add_section()
            table.add_row(row["network"], style="bold")
        yield row


def spread(ratio: Mapping[str, float], digits: int = 2) -> str:
    """The median and half of the distance between the quartiles, with ``digits`` behind the point."""
    return f"{ratio['median']:.{digits}f} ±{(ratio['high'] - ratio['low']) / 2:.{digits}f}"
