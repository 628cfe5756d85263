"""The Jacobian and its determinant for chains of Linear layers and activations, differentiated by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, mul
from torch.autograd import Function

from nas.jac.errors import JacobianError
from nas.jac.fused.loan import Loan
from nas.jac.fused.tape import Layout, Tape, inference
from nas.jac.refuse import check_finite, check_input


class Jacobian(Function):
    """The Jacobian of a chain: ``(layout, x, *weights)``, read by :mod:`nas.jac.fused.chain`, to ``(B, M, N)``.

    Refuses, with a :class:`JacobianError`: an ``x`` or a result that is not finite.
    """

    @staticmethod
    def forward(ctx: Any, layout: Layout, x: Tensor, *weights: Tensor | None) -> Tensor:
        ctx.loan = loan = Loan(x, layout)
        ctx.inputs = x, *weights
        ctx.save_for_backward(*weights[::2])
        with inference(True):
            loan.tape.push(x, weights)
            finite = math.isfinite(x.sum().item())
        if not finite:
            check_input("x", x)
        result = loan.tape.jacobian.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
        check_finite("jacobian", result, "the Jacobian", "look at the network's weights")
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        matrices, tape = ctx.saved_tensors, ctx.loan.tape
        with inference(True):
            tape.adjoint.copy_(g.permute(1, 2, 0))
            tape.pull(matrices)
        return _gradients(ctx, tape, matrices, g)


class Determinant(Function):
    """Its determinant, ``(B,)``, for 1 to 3 inputs and as many outputs; written for the fewest calls.

    Refuses, with a :class:`JacobianError`: an ``x`` or a result that is not finite.
    """

    @staticmethod
    def forward(ctx: Any, layout: Layout, x: Tensor, *weights: Tensor | None) -> Tensor:
        ctx.loan = loan = Loan(x, layout)
        ctx.inputs = x, *weights
        ctx.save_for_backward(*weights[::2])  # so that torch notices when they are changed before the backward pass
        tape = loan.tape
        with inference(True):
            tape.push(x, weights)
            DETERMINANT[tape.n](tape, tape.det)
            finite = math.isfinite(tape.checked.sum().item())
        if not finite:
            check_input("x", x)
            check_finite("det", tape.det, "the determinant", "look at the network's weights, or use slogdet")
        return tape.det.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        matrices, tape = ctx.saved_tensors, ctx.loan.tape
        with inference(True):
            COFACTORS[tape.n](tape, g)
            tape.pull(matrices)
        return _gradients(ctx, tape, matrices, g)


class FirstOnly(Function):
    """``(count, *inputs, *gradients)`` to ``gradients``, the last ``count`` of all; it cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple:
        return tuple(None if t is None else t.clone() for t in tensors[-count:])

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple:
        rule = "gives first derivatives only, and a second one was asked for"
        raise JacobianError("fused", True, rule, "pass fused=False to jacobian_det or slogdet")


def _gradients(ctx: Any, tape: Tape, matrices: tuple[Tensor | None, ...], g: Tensor) -> tuple:
    needed = ctx.needs_input_grad
    if not torch.is_grad_enabled():
        return None, tape.input_gradient(matrices[0]) if needed[1] else None, *tape.gradients(needed[2:])
    with torch.no_grad():
        grads = [tape.input_gradient(matrices[0]) if needed[1] else None, *tape.gradients(needed[2:])]
    return None, *FirstOnly.apply(len(grads), g, *ctx.inputs, *grads)


# Determinants of ``tape.jacobian``, into ``out``, and the gradient of ``tape.jacobian``, into ``tape.adjoint``, where
# that of the determinants is ``g``: by Jacobi's formula, ``g`` times the cofactors.


def _det1(tape: Tape, out: Tensor) -> None:
    out.copy_(tape.entries[0][0])


def _cofactors1(tape: Tape, g: Tensor) -> None:
    tape.adjoint_entries[0][0].copy_(g)


def _det2(tape: Tape, out: Tensor) -> None:
    (a, b), (c, d) = tape.entries
    mul(a, d, out=out).addcmul_(b, c, value=-1)


def _cofactors2(tape: Tape, g: Tensor) -> None:
    (a, b), (c, d) = tape.entries
    (da, db), (dc, dd) = tape.adjoint_entries
    minus = torch.neg(g, out=tape.minus)
    mul(d, g, out=da)
    mul(a, g, out=dd)
    mul(c, minus, out=db)
    mul(b, minus, out=dc)


def _det3(tape: Tape, out: Tensor) -> None:
    jacobian, cofactors = tape.jacobian, tape.cofactors
    for i in range(3):
        torch.linalg.cross(jacobian[i - 2], jacobian[i - 1], dim=0, out=cofactors[i])
    torch.sum(jacobian[0] * cofactors[0], 0, out=out)


def _cofactors3(tape: Tape, g: Tensor) -> None:
    mul(tape.cofactors, g, out=tape.adjoint)


DETERMINANT = {1: _det1, 2: _det2, 3: _det3}
COFACTORS = {1: _cofactors1, 2: _cofactors2, 3: _cofactors3}
CLOSED_FORM = len(DETERMINANT)
"""Up to this size a determinant is computed from cofactors."""
