"""``gram``: products of Jacobians that are never held as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.jac.errors import BudgetError, JacobianError, NoRuleError
from nas.jac.jacobian import factorise, output
from nas.jac.ntk import paired_gram
from nas.jac.plan.autodiff import directions_at_once
from nas.jac.plan.order import CACHED
from nas.jac.plan.products import gram_product, pair_product
from nas.jac.refuse import CHUNK_BYTES, GRAM_BYTES, SLOPES, check_apart, check_finite, check_input
from nas.jac.watch import guarded

Function = Callable[[Tensor], Tensor]


def gram(model: Function, x1: Tensor, x2: Tensor, wrt: str = "input", chunk_bytes: int | None = None) -> Tensor:
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
        chunk_bytes: budget in bytes for what is under way at once, besides the values of a forward pass. Left out:
            8 MiB by the input, 256 MiB by the parameters, or as much as one direction of one sample takes.

    Returns:
        ``(B, M, M)``.

    Raises:
        JacobianError: ``wrt`` is neither, or the shapes differ.
    """
    if wrt not in ("input", "parameters"):
        raise JacobianError("wrt", wrt, "must be input or parameters", "use wrt='input'")
    check_input("x1", x1)
    check_input("x2", x2)
    if (x1.dtype, x1.device) != (x2.dtype, x2.device):
        rule = f"must be of the type of x1, {x1.dtype} on {x1.device}"
        raise JacobianError("x2", f"{x2.dtype} on {x2.device}", rule, "pass x2.to(x1)")
    if x1.shape != x2.shape:
        rule = f"must have the shape of x1, {tuple(x1.shape)}: samples are taken in pairs"
        raise JacobianError("x2", tuple(x2.shape), rule, "pass batches of one size, or call ntk for all pairs")
    products = _by_input if wrt == "input" else paired_gram
    if chunk_bytes is not None:
        result = products(model, x1, x2, int(chunk_bytes))
    else:
        try:
            result = products(model, x1, x2, GRAM_BYTES if wrt == "input" else CHUNK_BYTES)
        except BudgetError as error:
            result = products(model, x1, x2, error.needed)
    check_finite("gram", result, "the product", SLOPES)
    return result


def _by_input(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int) -> Tensor:
    try:
        with torch.no_grad():
            if x1.shape[0] == 1 and x1.numel() <= CACHED and x2 is not x1:
                try:
                    return pair_product(factorise(model, torch.cat([x1, x2])), chunk_bytes)
                except NoRuleError:
                    pass  # or there is one for two runs
            a = factorise(model, x1.detach())
            b = a if x2 is x1 else factorise(model, x2.detach())
            return gram_product(a, b, chunk_bytes)
    except NoRuleError:
        multiply = _by_autodiff
    except BudgetError:
        if len(x1) == 1:
            raise
        multiply = _by_input
    if multiply is _by_autodiff and _fits(model, x1, chunk_bytes):
        try:
            return _by_autodiff(model, x1, x2, chunk_bytes)
        except RuntimeError:  # torch's word for a forward derivative or a batching rule that is not there
            return _by_rows(model, x1, x2, chunk_bytes)
    halves = zip(x1.tensor_split(2), x2.tensor_split(2), strict=True)
    return torch.cat([_by_input(model, *half, chunk_bytes) for half in halves])


def _fits(model: Function, x: Tensor, chunk_bytes: int) -> bool:
    """Whether one direction of the batch fits the budget; one that does not for a single sample is an error."""
    try:
        directions_at_once(x, output(model, x)[0].numel(), chunk_bytes)
    except BudgetError:
        if len(x) == 1:
            raise
        return False
    return True


def _by_autodiff(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int) -> Tensor:
    """Some rows of ``J(x2)`` at a time, and ``J(x1)`` applied to them."""
    run = guarded(model, x1)
    with torch.inference_mode(False), torch.no_grad():
        y, pullback = torch.func.vjp(run, x2.detach().clone())  # type: ignore[misc]
        m = y[0].numel()
        units = torch.eye(m, dtype=y.dtype, device=y.device).view(m, 1, m).expand(m, *y.shape)
        columns = torch.func.vmap(lambda unit: torch.func.jvp(run, (x1.detach().clone(),), pullback(unit))[1])
        check_apart(lambda cotangents: pullback(cotangents)[0], y)
        at_once = directions_at_once(x2, m, chunk_bytes)
        parts = [columns(units[first : first + at_once]) for first in range(0, m, at_once)]
    return torch.cat(parts).permute(1, 2, 0)


def _by_rows(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int) -> Tensor:
    """Rows of both Jacobians by backward passes, block against block; those of ``J(x2)`` are made for each block."""
    with torch.inference_mode(False), torch.enable_grad():
        row1, m = _row_maker(model, x1)
        row2, _ = _row_maker(model, x2)
        at_once = max(1, directions_at_once(x1, m, chunk_bytes) // 2)
        blocks = [range(first, min(first + at_once, m)) for first in range(0, m, at_once)]
        parts = []
        for block in blocks:
            left = torch.stack([row1(i) for i in block], 1)
            parts.append(torch.cat([left @ torch.stack([row2(i) for i in other], 1).mT for other in blocks], 2))
    return torch.cat(parts, 1)


def _row_maker(model: Function, x: Tensor) -> tuple[Callable[[int], Tensor], int]:
    """A function from an output's number to its row, ``(B, N)``, and the number of outputs."""
    leaf = x.detach().clone().requires_grad_()
    y = guarded(model, x)(leaf)

    def row(number: int) -> Tensor:
        derivative = torch.autograd.grad(y[:, number].sum(), leaf, retain_graph=True, materialize_grads=True)[0]
        return derivative.flatten(1)

    return row, y.shape[1]
