"""What a kernel's eigenvalues say: how well conditioned it is, how many directions it has, how large it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.refuse import check_finite, check_real

ALLOWANCE = 10  # a kernel that is asymmetric or negative by more than so many times its rounding is refused


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues of a symmetric positive semidefinite kernel ``(n, n)``, and figures that are made of them.

    Attributes:
        eigenvalues: float64 ``(n,)``, ascending, in the kernel's unit; what is zero to rounding is exactly 0.
        condition_number: largest / smallest eigenvalue, at least 1; ``inf`` where the smallest is 0.
        effective_rank: ``exp(-sum(p * log(p)))`` of the eigenvalues' shares ``p`` of their sum, from 1 to ``n``
            (Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1).
        logdet: natural logarithm of the determinant; ``-inf`` where an eigenvalue is 0.
        rounding: the size up to which an eigenvalue counts as 0, in the kernel's unit.
    """

    eigenvalues: Tensor
    condition_number: float
    effective_rank: float
    logdet: float
    rounding: float


def spectrum(kernel: Tensor) -> Spectrum:
    """Eigenvalues (by ``torch.linalg.eigvalsh`` in float64), condition number, effective rank and log-determinant.

    The *rounding* of a kernel is ``n * eps * largest``, with its type's ``eps`` and its largest eigenvalue (Weyl's
    inequality). Eigenvalues up to that are set to 0; asymmetry and negative ones are errors beyond 10 roundings.

    Args:
        kernel: ``(n, n)``; or ``(B, B, M, M)`` as ``ntk`` gives it, for the ``(B * M, B * M)`` of all outputs.

    Returns:
        The spectrum, without a tape.

    Raises:
        JacobianError: the kernel is no real floating-point tensor of these shapes, is empty, zero, not finite, not
            symmetric, not positive semidefinite, or of a type so coarse that ``n * eps`` reaches 1.
    """
    shape = check_real("kernel", kernel, "pass a float tensor").shape
    if kernel.numel() == 0 or len(shape) not in (2, 4) or shape[::2] != shape[1::2]:
        rule = "must be square, (n, n) or (B, B, M, M), and not empty"
        raise JacobianError("kernel", tuple(shape), rule, "compute the kernel of a batch with itself, x2=None")
    check_finite("kernel", kernel, "the kernel", "look for overflow in the network, or compute it in float64")
    n = shape[::2].numel()
    matrix = (kernel.transpose(1, 2) if len(shape) == 4 else kernel).detach().double().reshape(n, n)
    size, unit = f"{n} x {n}", matrix.abs().max().item()
    share = n * torch.finfo(kernel.dtype).eps
    if share >= 1:
        rule = f"has {kernel.dtype}, in which {n} eigenvalues cannot be told from rounding"
        raise JacobianError("kernel", size, rule, "compute it in float32 or float64")
    if unit == 0:
        rule = "is zero everywhere, so that it has neither a condition number nor an effective rank"
        raise JacobianError("kernel", size, rule, "look for a network whose gradient vanishes")
    gap, allowed = (matrix - matrix.mT).abs(), ALLOWANCE * share * unit
    if gap.max().item() > allowed:
        row, column = divmod(int(gap.argmax()), n)
        here, there = (f"entry {at} is {matrix[at].item():.9g}" for at in ((row, column), (column, row)))
        rule = f"is not symmetric: {here}, {there}, rounding explains {allowed:.3g}"
        raise JacobianError("kernel", size, rule, "compute the kernel of a batch with itself, x2=None")
    values = torch.linalg.eigvalsh(matrix / unit)  # divided by the largest entry, lest sums overflow
    smallest, largest, rounding = values[0].item(), values[-1].item(), share * values.abs().max().item()
    if smallest < -ALLOWANCE * rounding:
        figures = f"smallest eigenvalue is {smallest * unit:.6g}, its largest {largest * unit:.6g}"
        rule = f"is not positive semidefinite: its {figures}, its rounding {rounding * unit:.3g}"
        raise JacobianError("kernel", size, rule, "compute it in float64, or see whether it is a kernel at all")
    values = torch.where(values <= rounding, 0.0, values)
    condition_number = largest / smallest if smallest > rounding else math.inf
    entropy = torch.special.entr(values / values.sum()).sum().item()  # entr(0) is 0
    effective_rank = min(max(math.exp(entropy), 1.0), float(n))
    logdet = values.log().sum().item() + n * math.log(unit)  # log(0) is -inf
    return Spectrum(values * unit, condition_number, effective_rank, logdet, rounding * unit)
