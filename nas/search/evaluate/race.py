"""Candidates are judged no longer than needed: those that are certainly behind get a look at a few images alone.

What a subnetwork loses on an image is much the same mixture of what others lose on it. So each candidate gets a first
look: its losses on :data:`LOOK` held-out images, with BatchNorm by batch. A ridge regression on the looks of those that
are known in full, its anchors, then predicts its value on all images, with a standard error (the regression estimator
of survey sampling: Cochran, Sampling Techniques, 1977, chapter 7). The most promising ones are evaluated in full, a few
at a time, and become anchors; when all others are certainly behind, these keep their predictions. What is evaluated in
full has the same bits as without a race.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.errors import DivergedError
from nas.search.evaluate.evaluator import Evaluator
from nas.search.propose.proposers import Trial
from nas.space import Architecture, in_order
from nas.train import EvalResult

LOOK = 512
"""Images of a first look, in two batches."""
SHARE, SPARE = 0.1, 1
"""Of those that cost no more, the best share and so many besides are evaluated in full."""
SURE = 2.5
"""Standard errors by which one is certainly behind."""
TOGETHER = 4
"""Evaluated in full before the others are predicted again."""
FEWEST, MOST = 3, 64
"""Anchors."""
WORTH = 4
"""Looks that an evaluation in full has to be worth in images, for a race."""
ROWS = ("loss", "accuracy")
"""Of what an evaluator finds by image: cross-entropy, and 1 where the answer is wrong."""
RIDGE = 0.01
"""Of the mean eigenvalue of what is regressed on."""

Found = Mapping[Architecture, EvalResult]
Company = Callable[[Trial], tuple[Sequence[Trial], Sequence[Trial]]]
"""Of a trial: those that were proposed together with it, and the finished ones before them."""


@dataclass(frozen=True)
class Prediction:
    """What a look predicts of a value on all images."""

    value: float
    error: float
    """Standard error; infinite without anchors."""


class Race:
    """Evaluates candidates, and drops those that are certainly behind.

    One is dropped if it is certainly not among the best tenth of those that cost no more, by the metric. What is
    dropped is a function of the candidates that were proposed together and of what is known before them.

    Args:
        evaluator: evaluates in full.
        looks: evaluates on the images of a first look.
        metric: ``loss`` or ``accuracy``.
        costs: the other objectives, each smaller for the better.
        way: how the supernet is asked, one of ``WAYS``: the end of the names of a trial's values.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        looks: Evaluator,
        metric: str,
        costs: Sequence[Callable[[Architecture], float]],
        way: str = "",
    ) -> None:
        self._evaluator, self._looks, self._costs, self.way = evaluator, looks, costs, way
        self._row = ROWS.index(metric)
        self._seen: dict[Architecture, Tensor] = {}

    def __call__(self, trials: Sequence[Trial], company: Company) -> Iterator[tuple[Trial, EvalResult | DivergedError]]:
        """Each of the trials, as soon as its result is there, with that result, or with the reason for none."""
        groups: defaultdict[int, dict[Architecture, Trial]] = defaultdict(dict)
        for trial in trials:
            groups[company(trial)[0][0].number][trial.architecture] = trial
        for group in groups.values():
            together, before = company(next(iter(group.values())))
            open_ones = [t.architecture for t in together if not t.failed]
            for architecture, found in self.run(open_ones, self._found(before), self._found(together)):
                if architecture in group:
                    yield group[architecture], found

    def _found(self, trials: Sequence[Trial]) -> Found:
        accuracy, loss = named(EvalResult((), 0.0, 0.0, 0), self.way)
        found = ((t.architecture, t.values[accuracy], t.values[loss], t.images) for t in trials if t.values)
        return {one[0]: EvalResult(*one) for one in found}

    def run(
        self, together: Sequence[Architecture], before: Found, done: Found
    ) -> Iterator[tuple[Architecture, EvalResult | DivergedError]]:
        """The results of candidates, in the order in which they are found.

        Args:
            together: candidates that were proposed together.
            before: what is known of those before them.
            done: what is known of themselves, from before this process was killed; not evaluated again.
        """
        known, rest = dict(before), list(together)
        self._look(rest)
        while rest:
            predictions = self._predictions(rest, known, self._row)
            contenders = self._contenders(rest, known, predictions)
            if not contenders:
                break
            for architecture, result in self._in_full(contenders[:TOGETHER], done):
                rest.remove(architecture)
                if isinstance(result, EvalResult):
                    known[architecture] = result
                yield architecture, result
        loss, wrong = (self._predictions(rest, known, row) for row in range(len(ROWS)))
        for architecture in rest:
            accuracy = min(1.0, max(0.0, 1 - wrong[architecture].value))
            yield architecture, EvalResult(architecture, accuracy, loss[architecture].value, self._looks.images)

    def _contenders(
        self, rest: Sequence[Architecture], known: Found, predictions: Mapping[Architecture, Prediction]
    ) -> list[Architecture]:
        """Those that are not certainly behind, the most promising ones first."""
        values = {a: (found.loss, 1 - found.accuracy)[self._row] for a, found in known.items()}
        values |= {a: p.value if math.isfinite(p.value) else math.inf for a, p in predictions.items()}
        costs = {a: [cost(a) for cost in self._costs] for a in values}
        found = []
        for a in rest:
            cheaper = [values[b] for b in values if all(x <= y for x, y in zip(costs[b], costs[a], strict=True))]
            k = min(len(cheaper), math.ceil(SHARE * len(cheaper)) + SPARE)
            bar = sorted(cheaper)[k - 1]
            if not predictions[a].value - SURE * predictions[a].error > bar:  # also if that is no number
                found.append(a)
        return sorted(found, key=lambda a: (values[a], in_order(a)))

    def _in_full(
        self, architectures: Sequence[Architecture], done: Found
    ) -> Iterator[tuple[Architecture, EvalResult | DivergedError]]:
        yield from ((a, done[a]) for a in architectures if a in done)
        new = sorted((a for a in architectures if a not in done), key=in_order)
        results = self._evaluator(new)
        for a in new:
            try:
                yield a, next(results)
            except DivergedError as error:
                yield a, error

    def _predictions(self, rest: Sequence[Architecture], known: Found, row: int) -> dict[Architecture, Prediction]:
        """What the looks of ``rest`` predict of their loss on all images, or of their share of wrong answers."""
        full = {a: (r.loss, 1 - r.accuracy) for a, r in known.items() if r.images == self._evaluator.images}
        anchors = sorted(full, key=lambda a: (full[a][self._row], in_order(a)))[:MOST]
        if len(anchors) < FEWEST:
            return {a: Prediction(float(self._seen[a][row].mean()), math.inf) for a in rest}
        self._look(anchors)
        x = torch.stack([self._seen[a][row] for a in anchors])
        y = torch.stack([self._seen[a][row] for a in rest]) if rest else x[:0]
        means = torch.tensor([full[a][row] for a in anchors], dtype=torch.float64)
        values, errors = regress(x, means, y)
        return {a: Prediction(*pair) for a, *pair in zip(rest, values.tolist(), errors.tolist(), strict=True)}

    def _look(self, architectures: Sequence[Architecture]) -> None:
        self._seen |= self._looks.by_image([a for a in architectures if a not in self._seen])


def named(result: EvalResult, way: str) -> dict[str, float]:
    """The values of a trial whose supernet was asked in one of the ``WAYS``."""
    end = f"_{way}" if way else ""
    return {f"accuracy{end}": result.accuracy, f"loss{end}": result.loss}


def regress(x: Tensor, means: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate means over all images from values on a sample of them and the means of other variables.

    Args:
        x: the other variables on the sample, float64 ``(anchors, images)``.
        means: their means over all images, ``(anchors,)``.
        y: what is estimated, on the sample, ``(n, images)``.

    Returns:
        The estimates and their standard errors, ``(n,)`` each.
    """
    common, n = x.mean(0), x.shape[1]  # most of what differs between images is common to all
    x, y, offsets = x - common, y - common, means - means.mean()
    at, level = offsets - x.mean(1), y.mean(1)
    x, y = x - x.mean(1, keepdim=True), y - level[:, None]
    gram = x @ x.T
    ridge = gram + (RIDGE * gram.diagonal().mean() + 1e-12) * torch.eye(len(x), dtype=x.dtype)
    weights = torch.linalg.solve(ridge, x @ y.T)
    used = torch.linalg.solve(ridge, gram).diagonal().sum()
    variance = (y - weights.T @ x).square().sum(1) / (n - 1 - used).clamp(min=1)
    return means.mean() + level + at @ weights, (variance * (1 / n + at @ torch.linalg.solve(ridge, at))).sqrt()
