"""Determinants of square Jacobians, to be trained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nas.jac.fused.functions import CLOSED_FORM, replay
from nas.jac.jacobian import jacobian
from nas.jac.refuse import WEIGHTS, check_finite, check_square


class SignLogDet(NamedTuple):
    """Determinants ``sign * exp(logabsdet)``, each ``(B,)``; where one is 0, its sign is 0, its logarithm -inf."""

    sign: Tensor
    logabsdet: Tensor


def jacobian_det(model: Callable[[Tensor], Tensor], x: Tensor, fused: bool = True) -> Tensor:
    """The determinant of each sample's Jacobian; outputs and inputs are flattened, and as many as each other.

    It can be differentiated by the parameters and by ``x``. Up to 3x3 it is computed from cofactors, beyond by LU. An
    ``nn.Sequential`` of ``nn.Linear`` and elementwise activations with up to 16 inputs is *fused*: values and tangents
    go through a layer as one product, and the gradient, written by hand, gives first derivatives only.

    Refuses, with a :class:`JacobianError`: a Jacobian that is not square, a determinant that is not finite, a second
    derivative of the fused path, and what :func:`~nas.jac.jacobian.jacobian` refuses.

    Source: Jacobi's formula, ``d det J = trace(adj(J) dJ)``; Golub and Van Loan, *Matrix Computations* (2013), 3.2.

    Args:
        model: module or function, ``(B, *in)`` to ``(B, *out)``.
        x: ``(B, *in)``, of a floating-point type.
        fused: use the fused path where the model allows it. False gives second derivatives too.

    Returns:
        ``(B,)``.
    """
    result = replay(model, x, det=True) if fused else None
    if result is not None and result.dim() == 1:
        return result
    det = _det(_general(model, x) if result is None else result)
    check_finite("det", det, "the determinant", f"{WEIGHTS}, or use slogdet")
    return det


def slogdet(model: Callable[[Tensor], Tensor], x: Tensor, fused: bool = True) -> SignLogDet:
    """Sign and logarithm of the determinant of each sample's Jacobian, as for a normalizing flow.

    As :func:`jacobian_det`, with the same arguments, and it refuses the same, but it neither overflows nor underflows.
    Where a determinant is 0 there is no gradient to speak of.

    Source: as for :func:`jacobian_det`; ``d log|det J| = trace(J^-1 dJ)``.

    Args:
        model: module or function, ``(B, *in)`` to ``(B, *out)``.
        x: ``(B, *in)``.
        fused: as for :func:`jacobian_det`.

    Returns:
        Both, each ``(B,)``; the sign carries no gradient.
    """
    matrices = replay(model, x, det=False) if fused else None
    matrices = _general(model, x) if matrices is None else matrices
    if matrices.shape[-1] > CLOSED_FORM:
        sign, logabsdet = torch.linalg.slogdet(matrices)
        sign = sign.detach()  # where it is 0, torch gives NaN if entries are subnormal
        return SignLogDet(sign, logabsdet.masked_fill(sign == 0, -torch.inf))
    scale = matrices.new_zeros(len(matrices))
    for dim in (2, 1):  # rows, then columns, to have entries of about 1 that multiply without loss of range
        size = matrices.detach().abs().amax(dim, keepdim=True)
        size = torch.where(size > 0, size, 1)
        matrices, scale = matrices / size, scale + size.log().sum((1, 2))
    det = _det(matrices)
    return SignLogDet(det.detach().sign(), det.abs().log() + scale)


def _general(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobians as square matrices, ``(B, N, N)``, with a tape in grad mode."""
    matrices = jacobian(model, x, create_graph=torch.is_grad_enabled()).reshape(len(x), -1, x[0].numel())
    check_square(*matrices.shape[1:])
    return matrices


def _det(matrices: Tensor) -> Tensor:
    n = matrices.shape[-1]
    if n > CLOSED_FORM:
        return torch.linalg.det(matrices)
    rows = matrices.unbind(1)
    if n == 1:
        return rows[0][:, 0]
    if n == 2:
        return rows[0][:, 0] * rows[1][:, 1] - rows[0][:, 1] * rows[1][:, 0]
    return (rows[0] * torch.linalg.cross(rows[1], rows[2])).sum(1)
