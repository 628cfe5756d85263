"""``gram``: products of Jacobians that are never held as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.jac.errors import BudgetError, JacobianError, NoRuleError
from nas.jac.jacobian import factorise
from nas.jac.ntk import paired_gram
from nas.jac.plan import autodiff
from nas.jac.plan.order import CACHED
from nas.jac.plan.products import gram_product, pair_product
from nas.jac.refuse import CHUNK_BYTES, GRAM_BYTES, SLOPES, check_finite, check_input

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
        try:
            with torch.set_grad_enabled(False):  # a microsecond less than no_grad
                return _by_layers(model, x1, x2, chunk_bytes)
        except NoRuleError:
            return _by_rows(model, x1, x2, chunk_bytes)
    except BudgetError:
        if len(x1) == 1:
            raise
    halves = zip(x1.tensor_split(2), x2.tensor_split(2), strict=True)
    return torch.cat([_by_input(model, *half, chunk_bytes) for half in halves])


def _by_layers(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int) -> Tensor:
    if x2 is not x1 and x1.numel() <= CACHED and 2 * x1.nbytes <= chunk_bytes:  # one run takes half the calls of two
        product = pair_product(factorise(model, torch.cat([x1, x2])), chunk_bytes)
        if product is not None:
            return product
    a = factorise(model, x1.detach())
    return gram_product(a, a if x2 is x1 else factorise(model, x2.detach()), chunk_bytes)


def _by_rows(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int) -> Tensor:
    """Rows of both Jacobians by backward passes, block against block; those of ``J(x2)`` are made for each block."""
    with torch.inference_mode(False), torch.enable_grad():
        at_once = max(1, autodiff.directions_at_once(x1, autodiff.output(model, x1)[0].numel(), chunk_bytes) // 2)
        (rows1, m), (rows2, _) = autodiff.rows(model, x1), autodiff.rows(model, x2)
        blocks = [slice(first, first + at_once) for first in range(0, m, at_once)]
        parts = []
        for block in blocks:
            left = rows1(block)
            parts.append(torch.cat([left @ rows2(other).mT for other in blocks], 2))
    return torch.cat(parts, 1)
