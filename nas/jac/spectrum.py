"""What a kernel's eigenvalues say: how well conditioned it is, how many directions it has, how large it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.refuse import check_finite

ALLOWANCE = 10
"""A kernel is refused where it is asymmetric or negative by more than this many times its rounding."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues of a symmetric positive semidefinite kernel, and figures that are made of them.

    Attributes:
        eigenvalues: float64 ``(n,)``, ascending, none negative, in the kernel's unit; those that are zero to
            rounding are exactly 0.
        condition_number: largest / smallest eigenvalue, at least 1; ``inf`` where the smallest is 0.
        effective_rank: ``exp(-sum(p * log(p)))`` with ``p`` the eigenvalues divided by their sum, from 1 to ``n``
            (Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1).
        logdet: natural logarithm of the determinant; ``-inf`` where an eigenvalue is 0.
        rounding: the size below which an eigenvalue counts as 0, in the kernel's unit.
    """

    eigenvalues: Tensor
    condition_number: float
    effective_rank: float
    logdet: float
    rounding: float


def spectrum(kernel: Tensor) -> Spectrum:
    """Eigenvalues, condition number, effective rank and log-determinant of a kernel.

    The eigenvalues are those of ``torch.linalg.eigvalsh`` in float64, whatever the kernel's type. The *rounding* of
    a kernel is ``n * eps * largest``, with ``eps`` that of the type in which it is given and ``largest`` its largest
    eigenvalue: what an eigenvalue moves by where each entry is wrong by ``eps * largest`` (Weyl's inequality; the
    norm of such an error is at most ``n`` times as large). Eigenvalues up to that are 0 to rounding and are set
    to 0, so that the condition number is at least 1, or ``inf``, and never negative. Entries are sums of products and
    can be wrong by a few ``eps``, so asymmetry and negative eigenvalues are errors beyond 10 times the rounding.
    A float32 kernel that is cast to float64 on its way here is held to the rounding of float64.

    Args:
        kernel: ``(n, n)``; or ``(B, B, M, M)`` as ``ntk`` gives it, samples first and outputs last, which is the
            ``(B * M, B * M)`` kernel of every output of every sample.

    Returns:
        The spectrum; nothing in it can be differentiated.

    Raises:
        JacobianError: the kernel is no real floating-point tensor of one of these shapes, is empty, has an entry that
            is not finite, is not symmetric or not positive semidefinite to rounding, is all zeros (there is neither
            a condition number nor an effective rank), or is so large in a type so coarse that ``n * eps`` reaches 1.
    """
    matrix = _square(kernel)
    n, eps = len(matrix), torch.finfo(kernel.dtype).eps
    if n * eps >= 1:
        rule = f"has {kernel.dtype}, in which {n} eigenvalues cannot be told from rounding"
        raise JacobianError("kernel", _size(n), rule, "compute it in float32 or float64")
    largest_entry = matrix.abs().max().item()
    if largest_entry == 0:
        rule = "is zero everywhere, so that it has neither a condition number nor an effective rank"
        raise JacobianError("kernel", _size(n), rule, "look for a network whose gradient vanishes")
    _refuse_asymmetric(matrix, ALLOWANCE * n * eps * largest_entry)

    # Divided by its largest entry, lest sums overflow; the mean of both halves, because eigvalsh reads one of them.
    scaled = matrix / largest_entry
    values = torch.linalg.eigvalsh((scaled + scaled.mT) / 2)
    rounding = n * eps * values.abs().max().item()
    if values[0].item() < -ALLOWANCE * rounding:
        rule = (
            f"is not positive semidefinite: its smallest eigenvalue is {values[0].item() * largest_entry:.6g}, its "
            f"largest {values[-1].item() * largest_entry:.6g}, its rounding {rounding * largest_entry:.3g}"
        )
        raise JacobianError("kernel", _size(n), rule, "compute it in float64, or see whether it is a kernel at all")
    values = torch.where(values <= rounding, 0.0, values)
    return _figures(values, largest_entry, rounding)


def _figures(values: Tensor, unit: float, rounding: float) -> Spectrum:
    smallest, largest, n = values[0].item(), values[-1].item(), len(values)
    shares = values / values.sum()
    entropy = torch.special.entr(shares).sum().item()  # entr(0) is 0
    return Spectrum(
        eigenvalues=values * unit,
        condition_number=largest / smallest if smallest else math.inf,
        effective_rank=min(max(math.exp(entropy), 1.0), float(n)),
        logdet=values.log().sum().item() + n * math.log(unit) if smallest else -math.inf,
        rounding=rounding * unit,
    )


def _square(kernel: Tensor) -> Tensor:
    # As a float64 matrix (n, n) of finite numbers, outside of any graph.
    if not isinstance(kernel, Tensor) or not kernel.is_floating_point():
        value = kernel.dtype if isinstance(kernel, Tensor) else type(kernel).__name__
        raise JacobianError("kernel", value, "must be a tensor of a real floating-point type", "pass a float tensor")
    shape = tuple(kernel.shape)
    pairs = kernel.dim() == 2 and shape[0] == shape[1]
    blocks = kernel.dim() == 4 and shape[0] == shape[1] and shape[2] == shape[3]
    if not (pairs or blocks) or kernel.numel() == 0:
        rule = "must be square, (n, n) or (B, B, M, M), and not empty"
        raise JacobianError("kernel", shape, rule, "compute the kernel of a batch with itself, x2=None")
    check_finite("kernel", kernel, "the kernel", "look for overflow in the network, or compute it in float64")
    matrix = kernel.detach().to(torch.float64)
    return matrix.permute(0, 2, 1, 3).reshape(shape[0] * shape[2], -1) if blocks else matrix


def _refuse_asymmetric(matrix: Tensor, rounding: float) -> None:
    gap = (matrix - matrix.mT).abs()
    if gap.max().item() > rounding:
        row, column = divmod(int(gap.argmax()), len(matrix))
        here, there = matrix[row, column].item(), matrix[column, row].item()
        rule = (
            f"is not symmetric: entry ({row}, {column}) is {here:.9g}, entry ({column}, {row}) is {there:.9g}, "
            f"rounding explains {rounding:.3g}"
        )
        raise JacobianError("kernel", _size(len(matrix)), rule, "compute the kernel of a batch with itself, x2=None")


def _size(n: int) -> str:
    return f"{n} x {n}"
