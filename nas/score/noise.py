"""How well even a perfect predictor can agree with a benchmark table, whose trainings are noisy.

The model: training ``j`` of architecture ``i`` ends at ``m_i + b_j + e_ij``, with a noise ``e`` of the same variance
``v`` for all. ``b_j`` is the effect of a seed on all architectures; it changes no rank. From the two-way table,

    v = sum_ij (x_ij - x_i. - x_.j + x_..)^2 / ((n - 1) (s - 1)),      reliability r = 1 - (v / s) / var_i(x_i.)

``r`` is the share of the variance of the means that is due to the architectures. The means scatter more than the
``m_i``, so they are shrunk to the right variance, ``x_.. + sqrt(r) (x_i. - x_..)``. With these as the truth, new
tables are drawn; the mean tau between them and the truth is the ceiling. For normal ``m_i`` it is
``2/pi asin(sqrt(r))`` (Kendall and Gibbons, Rank Correlation Methods, 1990).
"""

from __future__ import annotations

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


def ceiling(accuracies: Tensor, seed: int = 0) -> Ceiling | None:
    """The ceiling of a table; None if it has one training of each architecture, which says nothing about the noise.

    Args:
        accuracies: ``(n, seeds)``.
        seed: seed of the drawn tables.
    """
    x = accuracies.double()
    n, seeds = x.shape
    if seeds < 2 or n < 2:
        return None
    means = x.mean(dim=1)
    residual = x - means[:, None] - x.mean(dim=0) + x.mean()
    noise = float(residual.square().sum() / ((n - 1) * (seeds - 1))) ** 0.5
    scatter = float(means.var())
    reliability = max(0.0, 1 - noise**2 / seeds / scatter) if scatter > 0 else 0.0
    truth = means.mean() + reliability**0.5 * (means - means.mean())
    draws = generator(seed, "ceiling")
    taus, one_seed = [], []
    for _ in range(TABLES):
        table = truth[:, None] + noise * torch.randn(n, seeds, generator=draws, dtype=torch.float64)
        taus.append(kendall_tau(truth, table.mean(dim=1)))
        one_seed.append(one_against_others(table, seeds=1))
    low, high = interval(torch.tensor(taus, dtype=torch.float64))
    return Ceiling(
        seeds=seeds,
        noise=noise,
        reliability=reliability,
        tau=fmean(taus),
        tau_low=low,
        tau_high=high,
        one_seed_tau=one_against_others(x),
        one_seed_modelled=fmean(one_seed),
    )


def one_against_others(accuracies: Tensor, seeds: int | None = None) -> float:
    """Tau of one seed against the mean of the others, averaged over the seeds, or over the first few.

    Args:
        accuracies: ``(n, seeds)``, at least two seeds.
        seeds: how many seeds to compare; all if left out.
    """
    total = accuracies.shape[1]
    turns = range(seeds or total)
    others = [accuracies[:, [k for k in range(total) if k != j]].mean(dim=1) for j in turns]
    return fmean(kendall_tau(accuracies[:, j], others[j]) for j in turns)
