"""Central differences that know a kink from curvature, and the entry of a Jacobian that is furthest from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nas.jac.errors import JacobianError

Function = Callable[[Tensor], Tensor]

EPS = torch.finfo(torch.float64).eps
EXACT = 1e-6
"""An error, as a share of the scale, that is not looked into."""
SEEN = 1 / EXACT
"""Derivatives below this many times the rounding of a difference are measured by it, not by themselves."""
BENT, FINER = 2e-5, 16
"""Where the slopes to both sides differ by this share of the scale, a step so many times finer tells whether that is
curvature, which then shrinks as much, or a kink."""


@dataclass(frozen=True)
class Worst:
    """The entry ``(sample, row, column)`` of a Jacobian ``(B, M, N)`` with the largest error.

    Attributes:
        error: as a share of the scale of its sample.
        sample: index into ``B``.
        row: index into ``M``.
        column: index into ``N``.
        expected: the derivative there by differences.
        kinks: how many entries were at a kink.
    """

    error: float = -1.0
    sample: int = 0
    row: int = 0
    column: int = 0
    expected: float = 0.0
    kinks: int = 0


def largest_error(function: Function, point: Tensor, base: Tensor, given: Tensor, columns: Tensor) -> Worst:
    """Compare some columns of a Jacobian with central differences; see :func:`nas.jac.check.check`.

    Source: Press et al., *Numerical Recipes*, 3rd edition (2007), section 5.7.

    Args:
        function: ``(B, *in) -> (B, *out)`` in float64.
        point: ``(B, *in)``, float64.
        base: ``function(point)`` as ``(B, M)``.
        given: ``(B, M, C)``, the columns of the Jacobian that are looked at.
        columns: ``(C,)``, which columns of the ``N`` they are.

    Returns:
        The largest error and its place.

    Raises:
        JacobianError: every entry is at a kink.
    """
    steps = EPS ** (1 / 3) * point.reshape(len(point), -1).abs().clamp_min(rms(point))
    largest = given.abs().amax((1, 2)).double()[:, None]
    worst = Worst()
    for number, column in enumerate(columns.tolist()):
        entries, step = given[:, :, number].double(), steps[:, column]
        slope, bend = _slopes(function, point, base, column, step)
        seen = SEEN * EPS * base.abs().amax(1, keepdim=True) / step[:, None]
        scale = torch.maximum(largest, slope.abs().amax(1, keepdim=True)).maximum(seen)
        scale = scale.clamp_min(torch.finfo(torch.float64).tiny)  # where all is zero, so is the error
        errors, kink = (entries - slope).abs() / scale, torch.zeros_like(slope, dtype=torch.bool)
        bent = bend > BENT * scale
        if (bent | (errors > EXACT)).any():
            finer, still = _slopes(function, point, base, column, step / FINER)
            slope = torch.where(bent | (errors > EXACT), finer, slope)
            # The other outputs of that column are behind the same kink, if less visibly.
            kink = (bent & (still > bend / 4)).any(1, keepdim=True).expand_as(slope)
            errors = torch.where(kink, -1.0, (entries - slope).abs() / scale)
        sample, row = divmod(int(errors.argmax()), errors.shape[1])
        error, expected, kinks = errors[sample, row].item(), slope[sample, row].item(), worst.kinks + int(kink.sum())
        found = Worst(error, sample, row, column, expected, kinks)
        worst = found if error > worst.error else replace(worst, kinks=kinks)
    if worst.error < 0:
        rule = f"every one of the {worst.kinks} entries looked at is at a kink, where there is no derivative"
        raise JacobianError("x", tuple(point.shape), rule, "add a little noise to x and compute both anew")
    return worst


def _slopes(function: Function, point: Tensor, base: Tensor, column: int, step: Tensor) -> tuple[Tensor, Tensor]:
    # (B, M) each: the central difference, and by how much the slopes to both sides differ.
    flat = point.reshape(len(point), -1)
    upper, lower = flat.clone(), flat.clone()
    upper[:, column] += step
    lower[:, column] -= step
    above, below = (function(moved.view_as(point)).reshape(base.shape) - base for moved in (upper, lower))
    # The steps that were made: x + h is rounded.
    right, left = (upper - flat)[:, column, None], (flat - lower)[:, column, None]
    return (above - below) / (right + left), (above / right + below / left).abs()


def rms(point: Tensor) -> float:
    """The size of an input's entries.

    Args:
        point: any shape.

    Returns:
        The root mean square, or 1 where that is 0.
    """
    return point.square().mean().sqrt().item() or 1.0
