"""What Jacobians, determinants, Gram products and tangent kernels cost, compared with code without nas.jac."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from rich.table import Table
from threadpoolctl import threadpool_limits

from nas.bench.compare import frame, in_sections, interleave, machine, ratio_of, spread
from nas.bench.jac import cases
from nas.bench.jac.cases import BASELINE, CNN, MLP, OURS, TURN, Call, Calls
from nas.bench.jac.jax import Jax
from nas.bench.jac.memory import peak_mb
from nas.bench.search import APART, GRADIENT_PROXIES, PROXIES_BAR, SCORED, TOGETHER, proxies

PROCESSES = 3
"""That measure memory, one after the other: the allocator's blocks come and go by 4 MB."""
NUMPY, COMPILED, REPLAYED = "NumPy by hand", "compiled", "replayed"


@dataclass(frozen=True)
class Case:
    """One interleaved measurement: ours and its competitors, against one baseline."""

    network: str
    """What is computed of which function; heads a section of the table, with ``against``."""
    against: str
    """What the baseline is."""
    what: str
    """The name of ours in the table."""
    calls: Calls
    bars: dict[str, float] = field(default_factory=dict)
    """By name of the call: what the ratio may be at most."""
    turn: int = 1
    """Timed calls a round."""
    before: Call | None = None
    """What comes before each turn, untimed."""
    share: int = 1
    """Of the rounds that are asked for, one in so many: where a call takes a second."""
    memory: str = ""
    """The name of the same case in ``memory``, if its memory counts too."""
    memory_bars: dict[str, float] = field(default_factory=dict)
    """``ratio``: of the memory; ``mb``: of ours."""

    @property
    def heading(self) -> str:
        """Of its section of the table."""
        return f"{self.network}\n/ {self.against}"


@dataclass(frozen=True)
class Row:
    """One line of the table: what a variant takes, as a multiple of what the baseline takes."""

    network: str
    what: str
    median: float
    low: float
    """First quartile over the rounds."""
    high: float
    """Third quartile."""
    rounds: int
    taken: float
    """By the variant: median of one call, in ``unit``."""
    baseline: float
    """By the baseline."""
    unit: str
    """``ms``, or ``MB`` of 10^6 bytes."""
    compares: bool = False
    """Whether this is a competitor and not ours."""
    bar: float | None = None
    """What ``bar_of`` may be at most."""
    bar_of: str = "median"

    @property
    def held(self) -> bool:
        """Whether it is within its bar; true where there is none."""
        measured: float = getattr(self, self.bar_of)
        return self.bar is None or measured <= self.bar


def jac_suite(rounds: int, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything and return plain data; ``say`` is called with what comes next.

    Ctrl-C ends it with what it has until then, and with the exit status of a process that stops of it as ``stopped``.
    """
    warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # torch's own, where torch.func begins
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # a missing CUDA is not worth a warning
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else its workers keep the cores busy for a while
    jax = Jax(threads)
    rows, stopped = list[Row](), dict[str, Any]()
    try:
        for case in all_cases(jax):
            say(f"{case.network}: {case.what}")
            with threadpool_limits(threads, user_api="blas"):  # NumPy's threads; torch has been told
                rows += measured(case, rounds)
            rows += remembered(case, threads)
    except (KeyboardInterrupt, SystemExit) as stop:  # the latter is what signals raise in a command
        stopped["stopped"] = getattr(stop, "code", 130)
    left_out = [f"{name} ({why})" for name, why in jax.missing.items()]
    if not cases.has_compiler():
        left_out.append(f"{COMPILED} (there is no C++ compiler)")
    left_out += ["all that follows (stopped)"] * len(stopped)
    result = {"suite": "jac", "machine": machine(), "rounds": rounds, "left_out": left_out}
    return result | {"rows": [asdict(row) for row in rows]} | stopped


def all_cases(jax: Jax) -> Iterator[Case]:
    """All cases in the order of the table, each built when it is reached."""
    network, against = "step of the determinant's loss, 2-5-5-2, tanh", "step of the mean squared error"
    for batch, turn in (64, TURN), (1024, TURN), (16384, 2):
        calls = cases.determinant(batch) | jax.determinant(batch)
        if cases.has_compiler():
            calls[COMPILED] = cases.compiled_determinant(batch)
        yield Case(network, against, f"batch {batch}", calls, {OURS: 1.0, COMPILED: 0.6}, turn=turn)

    network, calls = "Jacobian of 500-100-10, ReLU, softmax", cases.one_sample()
    yield Case(network, "torch.func.jacrev", "one sample", calls | jax.samples(1), {OURS: 0.15}, turn=TURN)
    by_hand = {BASELINE: calls[NUMPY], OURS: calls[OURS]}
    if cases.has_compiler():
        by_hand[COMPILED] = cases.compiled_sample()
    yield Case(network, NUMPY, "one sample, eager", by_hand, {OURS: 1.5, COMPILED: 1.2}, turn=TURN)
    calls = cases.many_samples(256) | jax.samples(256)
    yield Case(network, "the bare (2560, 100) @ (100, 500)", "batch 256", calls, {OURS: 1.25})
    calls, before = cases.first_calls()
    network, against = "first call, Jacobian of 500-100-10", "a call that keeps no plan"
    yield Case(network, against, "one sample, recording", calls, {OURS: 2}, turn=TURN, before=before)

    network, against = "gram of tanh(tanh(x) @ W.T), batch 1", "vmapped jvp(vjp), torch.func"
    yield Case(network, against, "N = 10,000, M = 5", cases.products(10_000, 5), {OURS: 0.2}, turn=TURN)
    large, what = cases.products(1_000_000, 10), "N = 1,000,000, M = 10"
    yield Case(network, against, what, large, {OURS: 0.4}, share=10, memory="gram", memory_bars={"mb": 32})

    network, against = "ntk, 3 conv layers and a Linear, batch 32", "contraction, torch.func"
    calls = cases.kernel(CNN, 32) | jax.kernel(CNN, 32)
    yield Case(network, against, "full", calls, {OURS: 0.3}, share=10, memory="cnn", memory_bars={"ratio": 0.16})
    yield Case(network, against, "sum", cases.sum_kernel(CNN, 32), {OURS: 0.15}, share=10)
    network = "ntk, MLP 784-512-512-10, batch 64"
    calls = cases.kernel(MLP, 64) | jax.kernel(MLP, 64)
    yield Case(network, against, "full", calls, {OURS: 0.004}, share=20, memory="mlp", memory_bars={"ratio": 0.05})

    network, both = "gradient proxies of a chain subnetwork", proxies(GRADIENT_PROXIES, SCORED)
    calls = {BASELINE: both[APART], OURS: both[TOGETHER]}
    yield Case(network, "one by one", f"all eight, {SCORED} images", calls, {OURS: PROXIES_BAR}, share=5)


def measured(case: Case, rounds: int) -> list[Row]:
    """The rows of a case's times."""
    found = interleave(BASELINE, case.calls, max(3, rounds // case.share), case.turn, case.before)
    base, rows = found.pop(BASELINE), []
    for name, ratio in found.items():
        ours, bar = name in (OURS, COMPILED, REPLAYED), case.bars.get(name)
        what = case.what if name == OURS else name
        figures = (ratio.median, ratio.low, ratio.high, ratio.rounds, ratio.ms, base.ms, "ms")
        rows.append(Row(case.heading, what, *figures, compares=not ours, bar=bar))
    return sorted(rows, key=lambda row: row.compares)


def remembered(case: Case, threads: int) -> list[Row]:
    """The row of a case's memory, if it has one."""
    if not case.memory:
        return []
    runs = [[peak_mb(case.memory, variant, threads) for variant in (OURS, BASELINE)] for _ in range(PROCESSES)]
    ours, base = zip(*runs, strict=True)
    ratio, bars = ratio_of(ours, base), case.memory_bars
    figures = (ratio.median, ratio.low, ratio.high, PROCESSES, median(ours), median(base), "MB")
    row = Row(case.heading, f"{case.what}, memory", *figures)
    return [replace(row, bar=bars["mb"], bar_of="taken") if "mb" in bars else replace(row, bar=bars["ratio"])]


def jac_table(result: dict[str, Any]) -> Table:
    """The result for a terminal: medians over the rounds, with half of the distance between the quartiles."""
    shown = frame("Time or memory as a multiple of the baseline's", result, result["left_out"])
    for column in ("ratio", "at most", "taken", "baseline"):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in in_sections(shown, result["rows"]):
        name = f"{'    ' if row['compares'] else '  '}{row['what']}"
        places = digits(row["median"])
        ratio = spread(row, places)
        figures = (quantity(row[key], row["unit"]) for key in ("taken", "baseline"))
        shown.add_row(name, ratio, _bar(row), *figures, style="dim" if row["compares"] else None)
    return shown


def digits(value: float) -> int:
    """How many digits behind the point leave two that count; at least 2."""
    return max(2, 1 - math.floor(math.log10(value))) if value > 0 else 2


def quantity(value: float, unit: str) -> str:
    """With three digits that count: ``0.0721 ms``, ``1,730 MB``."""
    return f"{value:,.{max(0, min(4, 2 - math.floor(math.log10(max(value, 1e-9)))))}f} {unit}"


def _bar(row: dict[str, Any]) -> str:
    if row["bar"] is None:
        return ""
    return f"{row['bar']:g}" if row["bar_of"] == "median" else f"{row['bar']:g} {row['unit']}"
