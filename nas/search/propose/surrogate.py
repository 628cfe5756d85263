"""What trainings say about networks that were not trained: a regression on features, with its uncertainty.

A Gaussian process (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006) with two parts: one that is
linear in the features, and one that falls with their distance, which holds the interactions. Some twenty noisy values
do not determine the parameters of a kernel, so these are chosen by the marginal likelihood from a few.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nas.nn import indices_of
from nas.space import Architecture, SearchSpace

LINEAR = (0.3, 0.6, 0.9)
"""Shares of the variance that the linear part may explain."""
LENGTHS = (0.7, 1.4, 2.8)
"""Distances at which the other part may fall; two networks that differ everywhere are about 1.4 apart."""
NOISES = (0.03, 0.1, 0.3)
"""Variances of a single value, of targets whose variance is 1."""
WEIGHT = 0.7
"""How far the columns of one name spread, where all choices together spread by 1."""
REFERENCE = 2000
"""Random architectures that columns are standardised on, in a space that has more."""
JOINT = 500
"""The most promising architectures, among which a draw from the posterior finds its best."""
Array = NDArray[np.float64]
Column = Callable[[Sequence[Architecture]], Sequence[float]]
"""Finds a number for each architecture."""


class Features:
    """What a regression sees of an architecture: which choice each slot has, and any numbers.

    Args:
        space: of the architectures.
        columns: by name, what finds the numbers; the columns of one name weigh as much as the one of another.
        choices: whether the choices are seen.
        reference: architectures on which the numbers, or their logarithms where all are positive, are standardised;
            None takes all of the space, or ``REFERENCE`` random ones of a larger space. Where a number is costly these
            can be few.
    """

    def __init__(
        self,
        space: SearchSpace,
        columns: Mapping[str, Sequence[Column]] | None = None,
        choices: bool = True,
        reference: Sequence[Architecture] | None = None,
    ) -> None:
        self.space, self._choices = space, choices
        groups = [found for found in (columns or {}).values() if found]
        self._columns = [column for found in groups for column in found]
        weights = [WEIGHT / len(found) ** 0.5 for found in groups for _ in found]
        if reference is None:
            small = space.size <= REFERENCE
            draws = torch.Generator().manual_seed(0)
            reference = list(space.enumerate()) if small else space.sample_many(REFERENCE, draws)
        self._known: dict[Architecture, list[float]] = {}
        numbers = self._numbers(reference)
        self._smallest = np.where((numbers > 0).all(axis=0), numbers.min(axis=0), 0)  # 0: no logarithm
        numbers = self._leveled(numbers)
        spread = numbers.std(axis=0)
        self._mean, self._scale = numbers.mean(axis=0), np.array(weights) / np.where(spread > 0, spread, 1)

    def __call__(self, architectures: Sequence[Architecture]) -> Array:
        """The features of ``n`` architectures, ``(n, d)``; numbers that were found before are not found again."""
        numbers = (self._leveled(self._numbers(architectures)) - self._mean) * self._scale
        return np.concatenate([one_hot(self.space, architectures)] * self._choices + [numbers], axis=1)

    def _leveled(self, numbers: Array) -> Array:
        positive = self._smallest > 0
        logarithms = np.log(np.maximum(numbers, np.where(positive, self._smallest, 1)))
        return np.where(positive, logarithms, numbers)

    def _numbers(self, architectures: Sequence[Architecture]) -> Array:
        new = [a for a in dict.fromkeys(architectures) if a not in self._known]
        if new:
            found = [column(new) for column in self._columns]
            self._known.update((a, [float(values[i]) for values in found]) for i, a in enumerate(new))
        table = [self._known[a] for a in architectures]
        return np.array(table, dtype=float).reshape(len(table), len(self._columns))


class Surrogate:
    """Predicts values of architectures from those of others.

    Args:
        space: of the architectures.
        columns: by name, numbers that predict, as in :class:`Features`.
        choices: whether it sees which choice each slot has.
        pairs: whether it knows interactions of what it sees; without, it adds up.
        reference: as in :class:`Features`.
    """

    def __init__(
        self,
        space: SearchSpace,
        columns: Mapping[str, Sequence[Column]] | None = None,
        *,
        choices: bool = True,
        pairs: bool = True,
        reference: Sequence[Architecture] | None = None,
    ) -> None:
        self.features = Features(space, columns, choices, reference)
        self._pairs, self._model, self._warp = pairs, None, Warp()

    def fit(
        self, architectures: Sequence[Architecture], values: Sequence[float], counts: Sequence[float] | None = None
    ) -> Surrogate:
        """Learn from values.

        Args:
            architectures: each once, at least one.
            values: of each, finite; means where it was trained several times.
            counts: trainings that each value is the mean of; None for one each.
        """
        y = np.array(values, dtype=float)
        repeats = np.ones(len(y)) if counts is None else np.array(counts, dtype=float)
        self._warp = Warp().fit(y)
        self._model = regress(self.features(architectures), self._warp(y), repeats, self._pairs)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> tuple[Array, Array]:
        """Mean and standard deviation for each of ``n`` architectures, both ``(n,)``.

        Both are in the unit of the values. The deviation is that of the expected value, without the noise of a single
        training.
        """
        mean, deviation = self._fitted.predict(self.features(architectures), return_std=True)
        low, middle, high = (self._warp.undone(mean + shift * deviation) for shift in (-1, 0, 1))
        return middle, (high - low) / 2

    def sample(self, architectures: Sequence[Architecture], generator: torch.Generator, draws: int = 1) -> Array:
        """Draws from the joint posterior, ``(draws, n)``, in warped units: for comparisons within a draw.

        Only the ``JOINT`` most promising architectures are drawn; the others are -inf, since no draw has its best
        there.
        """
        x = self.features(architectures)
        mean, deviation = self._fitted.predict(x, return_std=True)
        chosen = np.argsort(-(mean + 2 * deviation), kind="stable")[:JOINT]
        mean, covariance = self._fitted.predict(x[chosen], return_cov=True)
        drawn = np.full((draws, len(x)), -np.inf)
        drawn[:, chosen] = joint_draws(mean, covariance, generator, draws)
        return drawn

    @property
    def _fitted(self) -> Any:
        assert self._model is not None, "fit comes first"
        return self._model


class Warp:
    """A power transform of values (Yeo and Johnson, 2000) under which they are about normal, with variance 1.

    Accuracies have a long tail of bad networks, which would otherwise decide the fit.
    """

    def __init__(self) -> None:
        self._transform: Any = None
        self._mean, self._scale = 0.0, 1.0

    def fit(self, y: Array) -> Warp:
        """Choose it for the values ``(n,)``."""
        from sklearn.preprocessing import PowerTransformer

        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        if len(np.unique(y)) > 2:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # it also tries powers that overflow
                self._transform = PowerTransformer().fit(self._standard(y))
        return self

    def __call__(self, y: Array) -> Array:
        standard = self._standard(y)
        return (standard if self._transform is None else self._transform.transform(standard))[:, 0]

    def undone(self, warped: Array) -> Array:
        """The values of warped ones; beyond the range of the transform, its end."""
        standard = warped[:, None]
        if self._transform is not None:
            low, high = self._range()
            standard = self._transform.inverse_transform(np.clip(standard, low, high))
        return standard[:, 0] * self._scale + self._mean

    def _standard(self, y: Array) -> Array:
        return ((y - self._mean) / self._scale)[:, None]

    def _range(self) -> tuple[float, float]:
        ends = np.array([[-10.0], [10.0]])  # standard deviations
        low, high = self._transform.transform(ends)[:, 0]
        return float(low), float(high)


# ------------------------------------------------------------------------------------------------ functions of arrays


def regress(x: Array, y: Array, counts: Array, interactions: bool = True) -> Any:
    """A Gaussian process on features ``(n, d)`` and values ``(n,)`` of variance 1; scikit-learn's.

    Args:
        x: features; the squared distances of two rows are about 1.
        y: values, mean 0.
        counts: ``(n,)``: how many observations each value is the mean of.
        interactions: whether there is a part that is not linear.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

    linear, fixed = DotProduct(0, "fixed"), "fixed"
    if interactions:
        kernels = [
            ConstantKernel(share, fixed) * linear + ConstantKernel(1 - share, fixed) * RBF(length, fixed)
            for share, length in itertools.product(LINEAR, LENGTHS)
        ]
    else:
        kernels = [ConstantKernel(1.0, fixed) * linear + ConstantKernel(0.01, fixed)]
    models = [
        GaussianProcessRegressor(kernel, alpha=noise / counts, optimizer=None).fit(x, y)
        for kernel, noise in itertools.product(kernels, NOISES)
    ]
    return max(models, key=lambda model: model.log_marginal_likelihood_value_)


def joint_draws(mean: Array, covariance: Array, generator: torch.Generator, draws: int) -> Array:
    """Draws of a normal distribution, ``(draws, n)``; the covariance may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    noise = torch.randn(draws, len(mean), generator=generator, dtype=torch.float64).numpy()
    drawn: Array = mean + (noise * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return drawn


def one_hot(space: SearchSpace, architectures: Sequence[Architecture]) -> Array:
    """Which choices each slot has, ``(n, choices of all slots)``, with variance 1 in all; equal for equal networks."""
    chosen = [space.canonical(a) for a in architectures]
    single = None if space.several else np.array(chosen, dtype=int).reshape(len(chosen), len(space.slots))
    blocks = []
    for i, (slot, numbers) in enumerate(zip(space.slots, space.numbers, strict=True)):
        k = len(slot.choices)
        share = sum(numbers) / len(numbers) / k  # of the architectures, that have a choice
        if share < 1:
            if single is not None:
                open_ones = single[:, [i]] == np.arange(k)
            else:
                places = [(row, branch) for row, a in enumerate(chosen) for branch in indices_of(a[i])]
                open_ones = np.zeros((len(chosen), k), dtype=bool)
                open_ones[tuple(np.array(places, dtype=int).reshape(-1, 2).T)] = True
            blocks.append((open_ones - share) / (share * (1 - share)) ** 0.5)
    wide: Array = np.concatenate([*blocks, np.zeros((len(chosen), 0))], axis=1)
    return wide / max(1, wide.shape[1]) ** 0.5
