"""What a search costs: evaluating many subnetworks, scoring one, and the search around it."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.table import Table

from nas.bench.compare import frame, in_sections, interleave, measured, spread
from nas.bench.gating import random_batch
from nas.score import score
from nas.search import Evaluator, Search, search
from nas.settings import (
    CellSettings,
    ChainSettings,
    EvaluateSettings,
    SearchRunSettings,
    SearchSettings,
    SyntheticSettings,
    TrackSettings,
    TrainRunSettings,
    TrainSettings,
)
from nas.space import build_space
from nas.train import Run, evaluate, fit

GRADIENT_PROXIES = ("ntk_condition", "jacob_cov", "synflow", "snip", "grasp", "grad_norm", "fisher", "zico")
SAMPLERS = ("random", "tpe", "nsga2", "exhaustive")
IMAGES, SIDE = 128, 32
"""How many images subnetworks are evaluated on, and as many calibrate them."""
SCORED, PROXIES_BAR = 16, 0.45
"""Images in each of two batches, and what all gradient proxies at once may take of the time of one by one."""
TRIALS, RACED = 200, 64
TOGETHER, APART = "together", "apart"
Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """One line of the table: the median and the quartiles of a ratio of two times, or of a time.

    Attributes:
        network: what is done; heads a section of the table.
        bar: what the median may be at most.
    """

    network: str
    what: str
    median: float
    low: float
    high: float
    rounds: int
    bar: float | None


def search_suite(rounds: int, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything and return plain data; ``say`` is called with what comes next."""
    say("all subnetworks of a chain")
    network = "all 256 subnetworks of chain, recalibrated / each alone"
    rows = [_ratio(network, f"{IMAGES} + {IMAGES} images of 32x32", evaluation(IMAGES), 0.45, rounds // 20)]
    say("a race")
    network = f"nas-search for the loss of {RACED} random cells, with a race / without"
    with race(RACED) as calls:
        rows.append(_ratio(network, "4,100 + 1,024 images of 8x8", calls, 0.33, rounds // 20))
    say("gradient proxies")
    network, without = f"gradient proxies of a chain subnetwork, {SCORED} images / one by one", GRADIENT_PROXIES[1:]
    rows.append(_ratio(network, "all eight", proxies(GRADIENT_PROXIES, SCORED), PROXIES_BAR, rounds // 5))
    rows.append(_ratio(network, "all but ntk_condition", proxies(without, SCORED), None, rounds // 5))
    say("the search around evaluations")
    network = f"nas-search besides evaluation, ms a trial in {TRIALS}"
    for sampler, times in overheads(max(3, rounds // 20)).items():
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        rows.append(Row(network, sampler, median, low, high, len(times), 20.0))
    return measured("search", rounds, rows)


def _ratio(network: str, what: str, calls: Calls, bar: float | None, rounds: int) -> Row:
    found = interleave(APART, calls, max(3, rounds), calls=1)[TOGETHER]
    return Row(network, what, found.median, found.low, found.high, found.rounds, bar)


def evaluation(images: int) -> Calls:
    """Evaluate all subnetworks of the default chain, with common prefixes shared, and each by itself."""
    space = build_space(ChainSettings())
    supernet, everything = space.supernet(), list(space.enumerate())
    batches, calibration = [random_batch(images, SIDE)], [random_batch(images, SIDE, seed=1)]

    def together() -> object:
        return list(Evaluator(supernet, space, batches, calibration)(everything))

    return {APART: lambda: evaluate(supernet, everything, batches, calibration), TOGETHER: together}


@contextmanager
def race(trials: int) -> Iterator[Calls]:
    """Search random cells of a small supernet by their loss: with a race, and all in full."""
    settings = TrainRunSettings(
        space=CellSettings(cells=1, width=4),
        data=SyntheticSettings(size=8200, image_size=8, val_fraction=0.5, crop=1),
        train=TrainSettings(epochs=1),
        evaluate=EvaluateSettings(recalibrate_images=1024, rounds=1),
        track=TrackSettings(writers=[], progress=False),
    )

    def call(checkpoint: Path, raced: bool) -> object:
        how = SearchSettings(sampler="random", trials=trials, objectives=["loss"], race=raced, progress=False)
        with tempfile.TemporaryDirectory() as folder:
            begun = Search(SearchRunSettings(checkpoint=str(checkpoint), search=how), Path(folder))
            found = search(begun)
            begun.study.close()
        return found

    with tempfile.TemporaryDirectory() as folder:
        run = Run(settings, Path(folder))
        fit(run)
        run.tracker.writer.close()
        yield {APART: lambda: call(run.folder, False), TOGETHER: lambda: call(run.folder, True)}


def proxies(names: Sequence[str], images: int) -> Calls:
    """Score a subnetwork of the default chain by several proxies at once, and by one after the other."""
    space = build_space(ChainSettings())
    network, batches = space.subnet((1, 2, 3, 2)), [random_batch(images, SIDE, seed) for seed in (0, 1)]

    def apart() -> object:
        return {name: score(network, [name], batches).values[name] for name in names}

    return {APART: apart, TOGETHER: lambda: score(network, names, batches).values}


def overheads(rounds: int, trials: int = TRIALS) -> dict[str, list[float]]:
    """Milliseconds a trial of whole searches in which an evaluation costs nothing, by sampler and round."""
    each_round = [{s: 1000 * empty_search(s, trials) / trials for s in SAMPLERS} for _ in range(rounds)]
    return {sampler: [times[sampler] for times in each_round] for sampler in SAMPLERS}


def empty_search(sampler: str, trials: int) -> float:
    """Seconds of a search for small networks: proposals, journal, report and TensorBoard, without its start-up.

    FLOPs and parameters are looked up, so evaluations cost next to nothing.
    """
    how = SearchSettings(sampler=sampler, trials=trials, objectives=["flops", "parameters"], progress=False)
    settings = SearchRunSettings(space=ChainSettings(), data=SyntheticSettings(size=100), search=how)
    with tempfile.TemporaryDirectory() as folder:
        run = Search(settings, Path(folder))
        began = perf_counter()
        found = search(run)
        seconds = perf_counter() - began
        run.study.close()
    assert len(found.trials) == trials
    return seconds


def search_table(result: dict[str, Any], title: str = "What a search costs") -> Table:
    """The result for a terminal: medians over the rounds, with half of the distance between the quartiles."""
    shown = frame(title, result)
    for column in ("median", "at most"):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in in_sections(shown, result["rows"]):
        shown.add_row(f"  {row['what']}", spread(row), "" if row["bar"] is None else f"{row['bar']:g}")
    return shown
