"""``gram``: products of Jacobians that are never held as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.jac.autodiff import directions_at_once, guarded
from nas.jac.checks import GRAM_BYTES, check_finite, check_input
from nas.jac.errors import BudgetError, JacobianError, NoRuleError
from nas.jac.jacobian import factorise, output_shape
from nas.jac.ntk import paired_gram

Function = Callable[[Tensor], Tensor]


def gram(model: Function, x1: Tensor, x2: Tensor, wrt: str = "input", chunk_bytes: int = GRAM_BYTES) -> Tensor:
    """The products ``J(x1_b) J(x2_b)^T``, sample by sample, without holding a Jacobian.

    By the input: a network that begins with elementwise operations and a Linear is worked through in blocks of
    inputs; for any other, rows of one Jacobian are made some at a time and the other is applied to them. By the
    parameters: the diagonal blocks of the empirical neural tangent kernel, see :func:`nas.jac.ntk.ntk`.

    Refuses, with a :class:`JacobianError`: BatchNorm or dropout in training mode, inputs that are empty, of integers
    or not finite, an output that is no batch, a result that is not finite, a budget that is too small.

    Source: the products are Jacobian-vector products of vector-Jacobian products (Pearlmutter 1994; Novak et al.
    2022, arXiv:2206.08720, for the kernel).

    Args:
        model: module or function, ``(B, *in)`` to ``(B, *out)``; M is the number of entries of ``out``.
        x1: ``(B, *in)``.
        x2: of the same shape; the same tensor is looked at once.
        wrt: ``input`` or ``parameters``.
        chunk_bytes: budget in bytes for what is under way at once, besides the values of a forward pass.

    Returns:
        ``(B, M, M)``.

    Raises:
        JacobianError: ``wrt`` is neither, or the shapes differ.
    """
    if wrt not in ("input", "parameters"):
        raise JacobianError("wrt", wrt, "must be input or parameters", "use wrt='input'")
    check_input("x1", x1)
    check_input("x2", x2)
    if x1.shape != x2.shape:
        rule = f"must have the shape of x1, {tuple(x1.shape)}: samples are taken in pairs"
        raise JacobianError("x2", tuple(x2.shape), rule, "pass batches of one size, or call ntk for all pairs")
    products = _by_input if wrt == "input" else paired_gram
    result = products(model, x1, x2, chunk_bytes)
    check_finite("gram", result, "the product", "look for infinite slopes, such as sqrt at 0, and weights")
    return result


def _by_input(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int) -> Tensor:
    try:
        with torch.no_grad():
            a = factorise(model, x1.detach())
            b = a if x2 is x1 else factorise(model, x2.detach())
            return a.gram(b, chunk_bytes)
    except NoRuleError:
        multiply = _by_autodiff
    except BudgetError:
        if len(x1) == 1:
            raise
        multiply = _by_input
    if multiply is _by_autodiff and _fits(model, x1, chunk_bytes):
        return _by_autodiff(model, x1, x2, chunk_bytes)
    halves = zip(x1.tensor_split(2), x2.tensor_split(2), strict=True)
    return torch.cat([_by_input(model, *half, chunk_bytes) for half in halves])


def _fits(model: Function, x: Tensor, chunk_bytes: int) -> bool:
    """Whether one direction of the batch fits the budget; one that does not for a single sample is an error."""
    try:
        directions_at_once(x, output_shape(model, x).numel(), chunk_bytes)
    except BudgetError:
        if len(x) == 1:
            raise
        return False
    return True


def _by_autodiff(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int) -> Tensor:
    """Some rows of ``J(x2)`` at a time, and ``J(x1)`` applied to them."""
    run = guarded(model)
    with torch.inference_mode(False), torch.no_grad():
        y, pullback = torch.func.vjp(run, x2.detach().clone())  # type: ignore[misc]
        m = y[0].numel()
        units = torch.eye(m, dtype=y.dtype, device=y.device).view(m, 1, *y.shape[1:]).expand(m, *y.shape)
        columns = torch.func.vmap(
            lambda unit: torch.func.jvp(run, (x1.detach().clone(),), pullback(unit))[1].reshape(len(x1), -1)
        )
        at_once = directions_at_once(x2, m, chunk_bytes)
        parts = [columns(units[first : first + at_once]) for first in range(0, m, at_once)]
    return torch.cat(parts).permute(1, 2, 0)
