"""Compare predictions with the truth: correlations, a table of them, and conclusions in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas.console import ResultTable
from nas.rank.prediction import KINDS, Prediction
from nas.score.benchmark import BenchmarkTable
from nas.score.correlation import Correlation, Difference, best, compare, correlate, resamples
from nas.score.noise import Ceiling, ceiling


@dataclass(frozen=True)
class Row:
    """One predictor and its rank correlation with the truth."""

    name: str
    kind: str
    correlation: Correlation
    also: str = ""
    """A predictor that orders the architectures exactly alike and so has no row of its own; empty for none."""
    trainings: int = 0
    """Trainings of the table that the predictor has learned from; it is held against other networks."""

    @property
    def label(self) -> str:
        """The name, with that of the other one, or with what it has learned from."""
        if self.trainings:
            return f"{self.name}, {self.trainings} trainings"
        return f"{self.name}, {self.also}" if self.also else self.name


@dataclass(frozen=True)
class Ranking:
    """The result of comparing predictions with the truth."""

    rows: list[Row]
    """In the order of ``KINDS``; within a kind the best first."""
    ceiling: Ceiling | None
    """None where the table has one training of each architecture."""
    conclusions: list[str]


def rank(predictions: Sequence[Prediction], truth: BenchmarkTable, seed: int = 0) -> Ranking:
    """Compare predictions with a benchmark table.

    Args:
        predictions: one for each predictor, among them a trivial one.
        truth: the table.
        seed: seed of the bootstrap resamples, which are the same for all predictors.
    """
    counts, mean = resamples(len(truth.architectures), seed=seed), truth.mean
    same = _trivial_twins(predictions)
    rows = [_row(p, mean, counts, same.get(p.name, "")) for p in predictions if p.name not in same.values()]
    rows.sort(key=lambda row: (KINDS.index(row.kind), -row.correlation.tau))
    limit = ceiling(truth.accuracies, seed, truth.trained)
    by_name = {prediction.name: prediction for prediction in predictions}
    return Ranking(rows, limit, _conclude(rows, by_name, mean, counts, limit))


def _trivial_twins(predictions: Sequence[Prediction]) -> dict[str, str]:
    """Of two trivial predictors that order the architectures alike, the second by the first."""
    orders: dict[tuple[int, ...], str] = {}
    twins = {}
    for prediction in predictions:
        if prediction.kind == "trivial":
            order = tuple(torch.unique(prediction.goodness[0], return_inverse=True)[1].tolist())
            if (first := orders.setdefault(order, prediction.name)) != prediction.name:
                twins[first] = prediction.name
    return twins


def _row(one: Prediction, mean: Tensor, counts: Tensor, also: str) -> Row:
    if one.unseen is None:
        return Row(one.name, one.kind, correlate(one.goodness, mean, counts), also)
    found = correlate(one.goodness, one.unseen.truth, counts, one.unseen.architectures)
    return Row(one.name, one.kind, found, trainings=one.unseen.trainings)


# ---------------------------------------------------------------------------------------------------- in plain words


def _conclude(
    rows: Sequence[Row], by_name: dict[str, Prediction], truth: Tensor, counts: Tensor, limit: Ceiling | None
) -> list[str]:
    """A sentence for each kind, comparing its best with the best trivial predictor; one on the pick; the ceiling."""
    first_of = {kind: next((row for row in rows if row.kind == kind), None) for kind in KINDS}
    trivial, sentences = first_of["trivial"], []
    assert trivial is not None, "parameters and FLOPs are always there"
    for kind in KINDS[:-1]:
        row = first_of[kind]
        if row is None:
            continue
        one, other = by_name[row.name], by_name[trivial.name]
        held = (truth, counts) if one.unseen is None else (one.unseen.truth, counts, one.unseen.architectures)
        difference = compare(one.goodness, other.goodness, *held)
        sentences.append(f"{_subject(row, rows)} ranks {_verdict(difference)} {_called(trivial)} {_shown(difference)}.")
    first = rows[0].correlation
    sentences.append(
        f"Taking {_called(rows[0])} at its word costs {100 * first.regret:.2f} points of accuracy: its first "
        f"choice is number {first.pick_rank:.3g}{' on average' if first.draws > 1 else ''} of {first.n:,}."
    )
    if limit is None:
        sentences.append(
            "The table has one training of each architecture, so it does not say how much of this is its noise."
        )
    else:
        sentences.append(
            f"Against this table even a perfect predictor would reach only about tau {limit.tau:.2f} "
            f"[{limit.tau_low:.2f}, {limit.tau_high:.2f}]: one training of an architecture scatters by "
            f"{100 * limit.noise:.2f} points, and there are {_span(limit.fewest, limit.seeds)}."
        )
    return sentences


def _subject(row: Row, rows: Sequence[Row]) -> str:
    number = sum(other.kind == row.kind for other in rows)
    name = _called(row)
    among = f", the best of {number} {'proxies' if row.kind == 'proxy' else 'ways to ask it'}," if number > 1 else ""
    return name[0].upper() + name[1:] + among


def _verdict(difference: Difference) -> str:
    if not difference.certain:
        return "no better than" if difference.difference <= 0 else "not certainly better than"
    return "better than" if difference.difference > 0 else "worse than"


def _shown(difference: Difference) -> str:
    low, high = f"{difference.low:+.2f}", f"{difference.high:+.2f}"
    return f"(difference of tau {difference.difference:+.2f}, 95 % [{low}, {high}])"


def _called(row: Row) -> str:
    """The name of a predictor in a sentence."""
    if row.kind == "trivial":
        name = {"parameters": "the parameter count", "flops": "the number of FLOPs"}[row.name]
        return f"{name} (or {row.also}, which order alike)" if row.also else name
    if row.kind == "sum":
        return f"the rank-sum of {row.name.replace(' + ', ' and ')}"
    if row.kind == "learned":
        return f"a regression on {row.trainings} trainings"
    if row.kind == "proxy":
        return f"the proxy {row.name}"
    metric, _, how = row.name.partition("_")
    ways = {"": "", "running": " with running statistics", "tuned": " after fine-tuning"}
    return f"the supernet's {metric}{ways[how]}"


# ------------------------------------------------------------------------------------------------------ as a table


def tables(ranking: Ranking, truth: BenchmarkTable) -> list[ResultTable]:
    """The correlations as a table for a terminal."""
    n, top = len(truth.architectures), len(best(truth.mean))
    several = any(row.correlation.draws > 1 for row in ranking.rows)
    fewest, most = (int(number) for number in truth.trainings.aminmax())
    trainings = "1 training" if most == 1 else f"the mean of {_span(fewest, most)} trainings"
    low, high = float(truth.mean.min()), float(truth.mean.max())
    title = f"{n:,} architectures against {trainings} each, {low:.1%} to {high:.1%} ({Path(truth.name).name})"
    figures = ["Kendall tau", *(["draws"] if several else []), "rho", f"tau top {top}", "regret", "pick"]
    shown = ResultTable(title, ["predictor"], figures)
    for row, before in zip(ranking.rows, [None, *ranking.rows], strict=False):
        if before is not None and before.kind != row.kind:
            shown.add_section()
        shown.add_row(row.label, *_cells(row.correlation, several))
    if ranking.ceiling is not None:
        limit, empty = ranking.ceiling, [""] * (len(figures) - 1)
        shown.add_section()
        shown.add_row("a perfect predictor", _range(limit.tau, limit.tau_low, limit.tau_high), *empty, style="bold")
        shown.add_row("one training vs. others", f"{limit.one_seed_tau:.2f}{' ' * 13}", *empty, style="dim")
    spread = "; draws: their number, and the standard deviation of tau over them" if several else ""
    shown.caption = (
        "[low, high]: 95 % bootstrap over architectures; rho: Spearman's, its interval is in rank.csv; "
        f"tau top {top}: among the truly best; regret: points of accuracy below the best; "
        f"pick: true rank of the predicted best{spread}"
    )
    learned = next((row for row in ranking.rows if row.trainings), None)
    if learned is not None:
        shown.caption += (
            f"; {learned.name}: learns from one training each of {learned.trainings} architectures of this table, "
            f"drawn anew each time; its figures are of the other {learned.correlation.n:,}, on other seeds"
        )
    return [shown]


def _span(fewest: int, most: int) -> str:
    return f"{most}" if fewest == most else f"{fewest} to {most}"


def _cells(c: Correlation, several: bool) -> list[str]:
    draws = [f"{c.draws} ±{c.tau_spread:.2f}" if c.tau_spread is not None else "1      "] if several else []
    figures = [_range(c.tau, c.tau_low, c.tau_high), *draws, f"{c.rho:.2f}"]
    return [*figures, f"{c.top_tau:.2f}", f"{100 * c.regret:.2f}", f"{c.pick_rank:.3g}"]


def _range(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
