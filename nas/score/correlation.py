"""Rank correlations with their uncertainty, and what it costs to trust a predictor's first choice.

Kendall's tau-b (Kendall, "The treatment of ties in ranking problems", Biometrika 1945) and Spearman's rho, with
percentile bootstrap intervals (Efron and Tibshirani, 1993): architectures are drawn with replacement, and the
correlation is computed on each resample. The correlation of a constant predictor is 0 here, where the formula would
divide by 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from nas.errors import NasError
from nas.seeds import generator

CONFIDENCE = 0.95
RESAMPLES = 1000
SMALLEST_TOP = 10
"""The best tenth has at least this many architectures, or all of them."""
_BLOCK = 512


@dataclass(frozen=True)
class Correlation:
    """How well a predictor agrees with the truth. With several draws of the predictor, figures are means over them."""

    n: int
    """Number of architectures."""
    draws: int
    tau: float
    tau_low: float
    """Lower end of the 95 % interval over architectures."""
    tau_high: float
    tau_spread: float | None
    """Standard deviation of tau over the draws; None for a single draw."""
    rho: float
    rho_low: float
    rho_high: float
    top_n: int
    top_tau: float
    """Tau among the ``top_n`` architectures that are truly best: a tenth of all."""
    regret: float
    """Best true accuracy minus that of the predicted best, 0 to 1; the mean over ties for the predicted best."""
    pick_rank: float
    """True rank of the predicted best, from 1."""


@dataclass(frozen=True)
class Difference:
    """How much larger one predictor's tau is than another's, on the same architectures."""

    difference: float
    low: float
    """Lower end of the 95 % interval, with both predictors on the same resamples."""
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def kendall_tau(a: Tensor, b: Tensor) -> float:
    """Kendall's tau-b of two ``(n,)`` lists; 0 if either is constant.

    Raises:
        NasError: there are fewer than 2 numbers, or NaN among them. Infinities are ordered like other numbers.
    """
    from scipy import stats  # takes a second to import

    a, b = _comparable(a, b)
    if not (a.any() and b.any()):  # all in place 0
        return 0.0
    return float(stats.kendalltau(a.numpy(), b.numpy()).statistic)


def spearman_rho(a: Tensor, b: Tensor) -> float:
    """Spearman's rho of two ``(n,)`` lists; 0 if either is constant.

    Raises:
        NasError: there are fewer than 2 numbers, or NaN among them.
    """
    return float(spearman_rhos(*_comparable(a, b), torch.ones(1, len(a))))


def _comparable(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    assert a.shape == b.shape == a.shape[:1], f"{tuple(a.shape)} and {tuple(b.shape)} are not two lists of a length"
    _check(a)
    _check(b)
    return _places(a), _places(b)


def _places(values: Tensor) -> Tensor:
    """Each value's place among the distinct values, from 0: the same order, without infinities."""
    return values.unique(return_inverse=True)[1]


def _check(values: Tensor) -> None:
    if values.shape[-1] < 2:
        rule = "a ranking needs at least 2 architectures"
        raise NasError("architectures", values.shape[-1], rule, "take more of them")
    wrong = int(values.isnan().sum())
    if wrong:
        rule = f"{wrong} of {values.numel()} values are not numbers, so they have no order"
        raise NasError("predictions", "nan", rule, "give those architectures a worst value, such as -inf")


# --------------------------------------------------------------------------------------------------- resampling


def resamples(n: int, number: int = RESAMPLES, seed: int = 0) -> Tensor:
    """How often each of ``n`` architectures occurs in each of ``number`` bootstrap resamples: ``(number, n)``."""
    drawn = torch.randint(n, (number, n), generator=generator(seed, "bootstrap"))
    return torch.zeros(number, n).scatter_add_(1, drawn, torch.ones(number, n))


def kendall_taus(a: Tensor, b: Tensor, counts: Tensor) -> Tensor:
    """Kendall's tau-b on each resample, ``(number,)``, all at once.

    With ``w`` the counts of a resample and ``s_ij = sign(a_i - a_j) sign(b_i - b_j)``, concordant minus discordant
    pairs are ``sum_{i<j} w_i w_j s_ij``: one matrix product serves all resamples. Float32 sums of whole numbers this
    small are exact, so the result is what SciPy computes on the resample, to rounding.

    Args:
        a, b: ``(n,)``.
        counts: ``(number, n)`` from :func:`resamples`.
    """
    a, b, n = _places(a), _places(b), len(a)
    agree = torch.zeros(len(counts), dtype=torch.float64)
    for start in range(0, n, _BLOCK):
        rows = slice(start, start + _BLOCK)
        signs = torch.sign(a[rows, None] - a[None, start:]) * torch.sign(b[rows, None] - b[None, start:])
        later = counts[:, start:] @ signs.float().triu_(1).T  # each pair once
        agree += (later * counts[:, rows]).sum(dim=1, dtype=torch.float64)
    pairs = n * (n - 1) / 2
    untied = (pairs - _tied_pairs(a, counts)) * (pairs - _tied_pairs(b, counts))
    return torch.where(untied > 0, agree / untied.clamp(min=1).sqrt(), 0.0)


def _tied_pairs(values: Tensor, counts: Tensor) -> Tensor:
    number = _group_counts(values, counts)[0]
    return (number * (number - 1) / 2).sum(dim=1)


def _group_counts(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """How often each distinct value occurs in each resample, ascending, and which value each architecture has."""
    distinct, group = values.unique(return_inverse=True)
    number = torch.zeros(len(counts), len(distinct), dtype=torch.float64)
    return number.index_add_(1, group, counts.double()), group


def spearman_rhos(a: Tensor, b: Tensor, counts: Tensor) -> Tensor:
    """Spearman's rho on each resample, ``(number,)``: Pearson's correlation of the ranks within it."""
    x, y = _centred_ranks(a, counts), _centred_ranks(b, counts)
    w = counts.double()
    scale = ((w * x * x).sum(dim=1) * (w * y * y).sum(dim=1)).sqrt()
    return torch.where(scale > 0, (w * x * y).sum(dim=1) / scale.clamp(min=1e-9), 0.0)


def _centred_ranks(values: Tensor, counts: Tensor) -> Tensor:
    """Each architecture's rank in each resample, ties sharing their mean, minus the mean rank: ``(number, n)``."""
    number, group = _group_counts(values, counts)
    mean_rank = number.cumsum(dim=1) - number / 2  # up to a constant, which the next line removes
    return (mean_rank - values.numel() / 2)[:, group]


def interval(values: Tensor) -> tuple[float, float]:
    """The percentile interval of a statistic's resampled values ``(number,)``."""
    tail = (1 - CONFIDENCE) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high


# ------------------------------------------------------------------------------------------------- the comparison


def correlate(
    prediction: Tensor, truth: Tensor, counts: Tensor | None = None, unseen: Tensor | None = None
) -> Correlation:
    """Compare a predictor with the truth.

    Args:
        prediction: ``(n,)``, or ``(draws, n)`` for several draws of one predictor; larger means better.
        truth: ``(n,)`` true accuracies, or ``(draws, n)`` where each draw has a truth of its own.
        counts: from :func:`resamples`; use the same for all predictors.
        unseen: ``(draws, n)``, bool: the architectures that a draw is compared on, as many in each; None for all.

    Raises:
        NasError: there are fewer than 2 architectures, or a prediction is NaN.
    """
    counts = resamples(truth.shape[-1]) if counts is None else counts
    cases = _cases(prediction, truth, unseen)
    taus = [kendall_tau(one.values, one.truth) for one in cases]
    tau_low, tau_high = interval(_mean(kendall_taus, cases, counts))
    rho_low, rho_high = interval(_mean(spearman_rhos, cases, counts))
    tops = [best(one.truth) for one in cases]
    regrets, ranks = zip(*(pick(one.values, one.truth) for one in cases), strict=True)
    return Correlation(
        n=len(cases[0].truth),
        draws=len(cases),
        tau=fmean(taus),
        tau_low=tau_low,
        tau_high=tau_high,
        tau_spread=stdev(taus) if len(taus) > 1 else None,
        rho=fmean(spearman_rho(one.values, one.truth) for one in cases),
        rho_low=rho_low,
        rho_high=rho_high,
        top_n=len(tops[0]),
        top_tau=fmean(kendall_tau(one.values[top], one.truth[top]) for one, top in zip(cases, tops, strict=True)),
        regret=fmean(regrets),
        pick_rank=fmean(ranks),
    )


def compare(
    prediction: Tensor, other: Tensor, truth: Tensor, counts: Tensor | None = None, unseen: Tensor | None = None
) -> Difference:
    """Whether one predictor orders better than another: the difference of their taus, resampled in pairs.

    Args:
        prediction, other: ``(n,)`` or ``(draws, n)`` each; larger means better.
        truth, counts, unseen: as in :func:`correlate`, for both.
    """
    counts = resamples(truth.shape[-1]) if counts is None else counts
    found = []
    for values in (prediction, other):
        cases = _cases(values, truth, unseen)
        found.append((fmean(kendall_tau(one.values, one.truth) for one in cases), _mean(kendall_taus, cases, counts)))
    (tau, resampled), (other_tau, other_resampled) = found
    return Difference(tau - other_tau, *interval(resampled - other_resampled))


class _Case(NamedTuple):
    """A draw and what it is held against, and which of all architectures these are."""

    values: Tensor
    truth: Tensor
    where: Tensor | slice


def _cases(prediction: Tensor, truth: Tensor, unseen: Tensor | None) -> list[_Case]:
    """One case for each draw of the predictor, or of the truth; the one with fewer draws repeats its own."""
    values, truths = torch.atleast_2d(prediction).double(), torch.atleast_2d(truth).double()
    _check(values)
    _check(truths)
    found = []
    for draw in range(max(len(values), len(truths))):
        where = slice(None) if unseen is None else unseen[draw]
        found.append(_Case(values[draw % len(values)][where], truths[draw % len(truths)][where], where))
    return found


def _mean(function: Callable[..., Tensor], cases: Sequence[_Case], counts: Tensor) -> Tensor:
    """A statistic on each resample, averaged over the draws."""
    return torch.stack([function(one.values, one.truth, counts[:, one.where]) for one in cases]).mean(dim=0)


def best(truth: Tensor) -> Tensor:
    """Indices of the truly best tenth: at least ``SMALLEST_TOP``, and all that tie with the last of them."""
    number = min(max(math.ceil(len(truth) / 10), SMALLEST_TOP), len(truth))
    return (truth >= truth.sort(descending=True).values[number - 1]).nonzero().flatten()


def pick(prediction: Tensor, truth: Tensor) -> tuple[float, float]:
    """Regret and true rank of the predicted best; means over ties for it."""
    picked = truth[prediction == prediction.max()]
    ranks = 1 + (truth[None, :] > picked[:, None]).sum(dim=1)
    return float(truth.max() - picked.mean()), float(ranks.double().mean())
