"""How well even a perfect predictor can agree with a benchmark table, whose trainings are noisy.

The model: training ``j`` of architecture ``i`` ends at ``m_i + b_j + e_ij``, with a noise ``e`` of the same variance
``v`` for all. ``b_j`` is the effect of a seed on all architectures; it changes no rank where all are trained on the
same seeds. Least squares give the means ``m_i``, the effects ``b_j`` and the residuals; then

    v = sum of squared residuals / degrees of freedom,      reliability r = 1 - v mean_i(1 / s_i) / var_i(m_i)

with the numbers ``s_i`` of trainings. In a table without gaps, ``m_i`` is the mean of a row and there are ``(n - 1)
(s - 1)`` degrees of freedom. ``r`` is the share of the variance of the means that is due to the architectures. The
estimated means scatter more than the true ones, so they are shrunk to the right variance, ``m. + sqrt(r) (m_i - m.)``.
With these as the truth, new tables with the same gaps are drawn; the mean tau between them and the truth is the
ceiling. For normal ``m_i`` and equal ``s_i`` it is ``2/pi asin(sqrt(r))`` (Kendall and Gibbons, Rank Correlation
Methods, 1990).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from nas.score.correlation import interval, kendall_tau
from nas.seeds import generator

TABLES = 200
"""Number of tables drawn under the model."""


@dataclass(frozen=True)
class Ceiling:
    """The agreement that the noise of a table's trainings leaves possible."""

    seeds: int
    """Of the architecture with the most trainings."""
    fewest: int
    """Trainings of the architecture with the fewest."""
    noise: float
    """Standard deviation of one training's accuracy, 0 to 1."""
    reliability: float
    """Share of the variance of the means over seeds that is due to the architectures, 0 to 1."""
    tau: float
    """Expected tau of a perfect predictor against the mean of all seeds."""
    tau_low: float
    """Lower end of the 95 % interval over tables drawn under the model."""
    tau_high: float
    one_seed_tau: float
    """Measured tau of one seed against the mean of the others, averaged over the seeds."""
    one_seed_modelled: float
    """The same in tables drawn under the model; close to the measured one where the model holds."""


def ceiling(accuracies: Tensor, seed: int = 0, trained: Tensor | None = None) -> Ceiling | None:
    """The ceiling of a table; None if it has one training of each architecture, which says nothing about the noise.

    Args:
        accuracies: ``(n, seeds)``.
        seed: seed of the drawn tables.
        trained: ``(n, seeds)``, bool, which of them there are, at least one in each row; None for all.
    """
    x, there = accuracies.double(), _all(accuracies) if trained is None else trained
    means, effects, residual, freedom = _fit(x, there)
    if freedom < 1:
        return None
    numbers = there.sum(dim=1)
    noise = (float(residual.square().sum()) / freedom) ** 0.5
    scatter = float(means.var())
    due_to_noise = noise**2 * float((1 / numbers).mean())
    reliability = max(0.0, 1 - due_to_noise / scatter) if scatter > 0 else 0.0
    truth = means.mean() + reliability**0.5 * (means - means.mean())
    draws = generator(seed, "ceiling")
    fullest = int(there[numbers > 1].sum(dim=0).argmax())
    taus, one_seed = [], []
    for _ in range(TABLES):
        table = truth[:, None] + effects + noise * torch.randn(x.shape, generator=draws, dtype=torch.float64)
        taus.append(kendall_tau(truth, _means(table, there)))
        one_seed.append(one_against_others(table, there, turns=[fullest]))
    low, high = interval(torch.tensor(taus, dtype=torch.float64))
    return Ceiling(
        seeds=int(numbers.max()),
        fewest=int(numbers.min()),
        noise=noise,
        reliability=reliability,
        tau=fmean(taus),
        tau_low=low,
        tau_high=high,
        one_seed_tau=one_against_others(x, there),
        one_seed_modelled=fmean(one_seed),
    )


def _fit(x: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Means of rows, effects of columns and residuals by least squares, and the degrees of freedom that are left.

    Only the differences between effects are determined; their mean over a row's trainings is taken out of its mean.
    """
    there, rows = there.double(), there.sum(dim=1, keepdim=True)
    centred = there * (x - _means(x, there)[:, None])
    normal = torch.diag(there.sum(dim=0)) - there.T @ (there / rows)  # the rows' means are eliminated
    effects = torch.linalg.pinv(normal, rtol=1e-9, hermitian=True) @ centred.sum(dim=0)
    residual = centred - there * (effects - _means(effects.expand_as(x), there)[:, None])
    means = _means(x - effects, there)
    freedom = int(there.sum()) - len(x) - int(torch.linalg.matrix_rank(normal, rtol=1e-9, hermitian=True))
    return means, effects, residual, freedom


def _means(x: Tensor, there: Tensor) -> Tensor:
    """Of each row, over what there is."""
    return (x * there).sum(dim=1) / there.sum(dim=1)


def _all(accuracies: Tensor) -> Tensor:
    return torch.ones_like(accuracies, dtype=torch.bool)


def one_against_others(accuracies: Tensor, trained: Tensor | None = None, turns: Sequence[int] | None = None) -> float:
    """Tau of one seed against the mean of the others, averaged over the seeds.

    Args:
        accuracies: ``(n, seeds)``.
        trained: ``(n, seeds)``, bool, which of them there are; None for all. Architectures are compared that have the
            seed and another one; two of them have some.
        turns: the seeds to compare; None for all that two such architectures have.
    """
    there, taus = _all(accuracies) if trained is None else trained, []
    there = there & (there.sum(dim=1, keepdim=True) > 1)
    for j in range(accuracies.shape[1]) if turns is None else turns:
        rows = there[:, j]
        if rows.sum() > 1:
            others = there[rows] & (torch.arange(there.shape[1]) != j)
            taus.append(kendall_tau(accuracies[rows, j], _means(accuracies[rows], others)))
    return fmean(taus)
