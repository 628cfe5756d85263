"""``suite=find``: how good a network a search by a few trainings finds, replayed from tables; and what it costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from rich.table import Table

from nas.bench.compare import frame, in_sections, measured
from nas.bench.replay import FINALS, InOrder, Truth, columns_of, regret, replay, unseen_tau
from nas.score.benchmark import OWN
from nas.search.objectives import Limits, objective
from nas.search.propose.proposers import Proposer, RandomProposer, Trial
from nas.search.propose.surrogate import Column
from nas.search.propose.surrogate_proposer import SurrogateProposer
from nas.seeds import generator
from nas.settings import ChainSettings, MacroSettings
from nas.settings.rank import FEATURES
from nas.space import Architecture, SearchSpace, build_space

REPEATS = 40
CHAIN_TRAININGS, MACRO_TRAININGS = 24, 32
PERCENTILES = (25, 50, 75, 100)
SURROGATE, RANDOM = "surrogate", "random search"
WORDS = "the parameter count's word", "the supernet's word"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of the table: a mean over replays, with its standard error.

    Attributes:
        network: heads a section of the table.
        figure: what is measured: regret in points, tau, or seconds.
        unseen: the mean by trainings that the search has not seen, where there are such.
        bar: what the mean may be at most; at least, for a tau.
    """

    network: str
    what: str
    figure: str
    mean: float
    error: float
    unseen: float | None
    repeats: int
    bar: float | None


def find_suite(rounds: int, macro: str, say: Say) -> dict[str, Any]:
    """Replay everything and return plain data; ``say`` is called with what comes next.

    Args:
        rounds: replays of each search; 40 at most.
        macro: a file with the table of NAS-Bench-Macro; empty leaves it out.

    Raises:
        DataError: the file cannot be read.
    """
    repeats = min(rounds, REPEATS)
    truths = {"chain": Truth.of(ChainSettings(widths=[8, 16]), OWN)}
    if macro:
        truths["macro"] = Truth.of(MacroSettings(), macro)
    rows: list[Row] = []
    for name, truth in truths.items():
        trainings = CHAIN_TRAININGS if name == "chain" else MACRO_TRAININGS
        for percentile in PERCENTILES if name == "chain" else (100,):
            limit = "no limit" if percentile == 100 else f"FLOPs of {percentile} %"
            say(f"{name}, {limit}")
            network = f"{name}, {trainings} trainings, {limit}: regret"
            rows += with_bars(regrets(truth, network, trainings, truth.limits(percentile), repeats), name)
    for name, truth in truths.items():
        say(f"{name}, unseen networks")
        rows += taus(name, truth, repeats)
    for name, truth in truths.items():
        say(f"{name}, features left out")
        rows += ablation(name, truth, repeats if name == "chain" else max(3, repeats // 3))
    say("the time of a proposal")
    rows.append(proposal_row(max(3, rounds // 20)))
    return measured("find", repeats, rows)


def with_bars(rows: list[Row], name: str) -> list[Row]:
    """The bars of the surrogate, which are set by what else could be done.

    On chain: a quarter of random search's regret, half of the mean of what supernet and parameters say at once, and 0.1
    more than training the largest networks; the least of these. On macro: 0.25.
    """
    of = {row.what: row.mean for row in rows}
    bar = 0.25
    if name == "chain":
        words = [mean for what, mean in of.items() if what in WORDS]
        largest = min(mean for what, mean in of.items() if what.startswith("the 2"))
        bar = min(of[RANDOM] / 4, statistics.fmean(words) / 2, largest + 0.1)
    return [replace(row, bar=bar) if row.what.startswith(SURROGATE) else row for row in rows]


def regrets(truth: Truth, network: str, trainings: int, limits: Limits, repeats: int) -> list[Row]:
    """What can be said without any training, and searches with as many trainings each, by the regret of the winner."""
    allowed, best, rows = list(limits.allowed()), truth.best(limits), []
    words = {WORDS[0]: max(allowed, key=truth.costs["parameters"].__getitem__)}
    if truth.losses:
        words[WORDS[1]] = min(allowed, key=truth.losses.__getitem__)
    for what, word in words.items():
        lost, _ = regret(truth, best, word, ())
        rows.append(Row(network, what, "regret", lost, 0.0, None, 1, None))
    for cost in truth.costs:
        what = f"the {trainings - FINALS} with most {'FLOPs' if cost == 'flops' else cost}"
        in_order = partial(InOrder, truth.space, limits, value=truth.costs[cost])
        rows.append(search_row(truth, network, what, in_order, trainings, limits, min(repeats, truth.orders)))
    searches: dict[str, Callable[..., Proposer]] = {RANDOM: partial(RandomProposer, truth.space, limits)}
    searches[f"{SURROGATE}, no supernet"] = partial(truth.proposer, limits, features=FEATURES[:3])
    if truth.losses:
        searches[SURROGATE] = partial(truth.proposer, limits)
    return rows + [
        search_row(truth, network, what, build, trainings, limits, repeats) for what, build in searches.items()
    ]


def search_row(
    truth: Truth,
    network: str,
    what: str,
    build: Callable[..., Proposer],
    trainings: int,
    limits: Limits,
    repeats: int,
) -> Row:
    """The mean regret of the winners of ``repeats`` searches; ``build`` makes the proposer of a ``seed``."""
    best, lost = truth.best(limits), []
    for repeat in range(repeats):
        columns = columns_of(truth, repeat)
        lost.append(regret(truth, best, replay(truth, build(seed=repeat), trainings, columns), columns))
    seen, unseen = zip(*lost, strict=True)
    return Row(network, what, "regret", statistics.fmean(seen), _error(seen), statistics.fmean(unseen), repeats, None)


def taus(name: str, truth: Truth, repeats: int) -> list[Row]:
    """How well predictions order networks that were not trained."""
    rows = []
    for trainings in (16, 32, 64) if name == "chain" else (32, 96):
        for features in (FEATURES[:3], FEATURES) if truth.losses else (FEATURES[:3],):
            what = SURROGATE if features == FEATURES else f"{SURROGATE}, no supernet"
            found = [unseen_tau(truth, trainings, repeat, features) for repeat in range(repeats)]
            bar = {("chain", 32): 0.80, ("macro", 96): 0.85}.get((name, trainings))
            network = f"{name}, {trainings} trainings: tau on other networks"
            rows.append(Row(network, what, "tau", statistics.fmean(found), statistics.stdev(found), None, repeats, bar))
    return rows


def ablation(name: str, truth: Truth, repeats: int) -> list[Row]:
    """Searches without a limit, with one feature left out of the surrogate."""
    trainings = CHAIN_TRAININGS if name == "chain" else MACRO_TRAININGS
    rows, limits, network = [], truth.limits(100), f"{name}, {trainings} trainings, a feature left out: regret"
    for left_out in FEATURES if truth.losses else FEATURES[:3]:
        features = tuple(feature for feature in FEATURES if feature != left_out)
        build = partial(truth.proposer, limits, features=features)
        rows.append(search_row(truth, network, f"no {left_out}", build, trainings, limits, repeats))
    return rows


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


# ---------------------------------------------------------------------------------------------------------- time


def proposal_seconds(trials: int = 200) -> float:
    """Seconds a proposal of a batch of four in the 6,561 networks of ``macro``, with so many trials known."""
    space: SearchSpace = build_space(MacroSettings())
    costs = {
        "flops": lambda a: float(1 + sum(a)),
        "parameters": lambda a: float(1 + sum(x * i for i, x in enumerate(a))),
    }
    drawn = list(dict.fromkeys(space.sample_many(2 * trials, generator(0, "bench"))))[:trials]
    noise = torch.rand(trials, generator=generator(0, "noise")).tolist()
    known = [
        Trial(i, a, {"accuracy": costs["flops"](a) / 20 + 0.1 * e}, True, True)
        for i, (a, e) in enumerate(zip(drawn, noise, strict=True))
    ]
    columns: dict[str, list[Column]] = {"cost": [partial(_each, cost) for cost in costs.values()]}
    proposer = SurrogateProposer(space, Limits(space, {}, costs), 0, objective("accuracy"), costs, columns)
    proposer.tell(known[:-4])
    taken = {trial.architecture for trial in known}
    proposer.ask(trials - 4, taken)  # what is done once for a search
    began = perf_counter()
    proposer.tell(known)
    for number in range(trials, trials + 4):
        trial = proposer.ask(number, taken)
        assert trial is not None, "there are more"
        taken.add(trial.architecture)
    return (perf_counter() - began) / 4


def _each(cost: Callable[[Architecture], float], architectures: Sequence[Architecture]) -> list[float]:
    return [cost(a) for a in architectures]


def proposal_row(rounds: int) -> Row:
    """The median over ``rounds`` batches."""
    times = [proposal_seconds() for _ in range(rounds)]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    network = "seconds a proposal"
    return Row(network, "200 trials, 6,561 networks", "seconds", median, (high - low) / 2, None, rounds, 1.0)


def find_table(result: dict[str, Any]) -> Table:
    """The result for a terminal: means with standard errors; for a tau, with its standard deviation."""
    shown = frame(f"What a search by trainings finds, {result['rounds']} replays", result)
    for column in ("mean", "unseen seeds", "bar"):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in in_sections(shown, result["rows"]):
        spread = f" ±{row['error']:.2f}" if row["repeats"] > 1 else ""
        unseen = "" if row["unseen"] is None else f"{row['unseen']:.2f}"
        bar = "" if row["bar"] is None else f"{row['bar']:g}"
        shown.add_row(f"  {row['what']}", f"{row['mean']:.2f}{spread}", unseen, bar)
    return shown
