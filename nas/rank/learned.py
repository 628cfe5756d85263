"""A predictor that learns from some trainings of the table, held against networks that it has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nas.rank.prediction import Prediction, Unseen
from nas.score.benchmark import BenchmarkTable
from nas.seeds import generator
from nas.settings.rank import SURROGATE
from nas.space import Architecture

DRAWS = 40
"""How often trainings are drawn to learn from."""


class Regression(Protocol):
    """What learns: :class:`nas.search.propose.surrogate.Surrogate`, for example."""

    def fit(self, architectures: Sequence[Architecture], values: Sequence[float], /) -> object:
        """Learn from the accuracies of some architectures."""

    def predict(self, architectures: Sequence[Architecture], /) -> tuple[Iterable[float], object]:
        """The accuracies of others, and how uncertain they are."""


def learned(regression: Regression, truth: BenchmarkTable, trainings: int, seed: int) -> Prediction:
    """What a regression on a few trainings says of all architectures of a table.

    Each of ``DRAWS`` draws learns from one training each of ``trainings`` architectures, all on one of the table's
    seeds where they have that one, and is held against the mean of the other seeds.

    Args:
        regression: fitted anew in each draw.
        truth: the table.
        trainings: how many each draw learns from; at least two architectures have to be left.
        seed: of the draws.
    """
    n, seeds = truth.accuracies.shape
    assert trainings <= n - 2, "settings are checked against the table where it is loaded"
    values, unseen, held = [], torch.ones(DRAWS, n, dtype=torch.bool), []
    for draw in range(DRAWS):
        chosen = torch.randperm(n, generator=generator(seed, "trainings", draw))[:trainings]
        unseen[draw, chosen] = False
        one, others = _split(truth, draw % seeds)
        regression.fit([truth.architectures[i] for i in chosen.tolist()], one[chosen].tolist())
        values.append(torch.tensor([*regression.predict(truth.architectures)[0]], dtype=torch.float64))
        held.append(others)
    return Prediction(SURROGATE, "learned", torch.stack(values), unseen=Unseen(trainings, unseen, torch.stack(held)))


def _split(truth: BenchmarkTable, seed: int) -> tuple[Tensor, Tensor]:
    """One training of each architecture, that of a seed where there is one, and the mean of the others, ``(n,)`` each.

    An architecture without others has its one training in both: it is never learned from and predicted at once.
    """
    there = truth.trained
    only = torch.zeros_like(there)
    only[torch.arange(len(there)), torch.where(there[:, seed], seed, there.int().argmax(dim=1))] = True
    others = there & ~only
    others = torch.where(others.any(dim=1, keepdim=True), others, there)
    one, rest = ((truth.accuracies * part).sum(dim=1) / part.sum(dim=1) for part in (only, others))
    return one, rest
