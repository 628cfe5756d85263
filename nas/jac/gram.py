"""``gram``: products of Jacobians that are never held as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.jac.errors import BudgetError, JacobianError, NoRuleError
from nas.jac.jacobian import factorise
from nas.jac.ntk import paired_gram
from nas.jac.plan.autodiff import reverse
from nas.jac.plan.order import CACHED, in_parts
from nas.jac.plan.products import gram_product, pair_product
from nas.jac.refuse import CHUNK_BYTES, GRAM_BYTES, SLOPES, Function, check_finite, check_input


def gram(model: Function, x1: Tensor, x2: Tensor, wrt: str = "input", chunk_bytes: int | None = None) -> Tensor:
    """The products ``J(x1_b) J(x2_b)^T``, sample by sample, without holding a Jacobian.

    By the input: a network that begins with elementwise operations and a Linear is worked through in blocks of
    inputs; for any other, rows that do not fit the budget are made some at a time and the other Jacobian is applied to
    them (Pearlmutter 1994). By the parameters: the diagonal blocks of the tangent kernel, :func:`nas.jac.ntk.ntk`.

    Args:
        model: module or function, ``(B, *in)`` to ``(B, *out)``; M is the number of entries of ``out``.
        x1, x2: ``(B, *in)``; the same tensor is looked at once.
        wrt: ``input`` or ``parameters``.
        chunk_bytes: budget in bytes for what is under way at once, besides the values of a forward pass. Left out:
            8 MiB by the input, 256 MiB by the parameters, or as much as one direction of one sample takes.

    Returns:
        ``(B, M, M)``.

    Raises:
        JacobianError: ``wrt`` is neither; an input is empty, of integers, not finite, or unlike the other; BatchNorm or
            dropout is in training mode; the output is no batch; the result is not finite.
        BudgetError: the budget given is too small.
    """
    if wrt not in ("input", "parameters"):
        raise JacobianError("wrt", wrt, "must be input or parameters", "use wrt='input'")
    check_input("x1", x1)
    check_input("x2", x2)
    if (x1.shape, x1.dtype, x1.device) != (x2.shape, x2.dtype, x2.device):
        wanted, found = (f"{tuple(x.shape)}, {x.dtype} on {x.device}" for x in (x1, x2))
        rule = f"must be of type and shape of x1, {wanted}: samples are taken in pairs"
        raise JacobianError("x2", found, rule, "pass x2.to(x1), or call ntk for all pairs")
    products, budget = (_by_input, GRAM_BYTES) if wrt == "input" else (paired_gram, CHUNK_BYTES)
    try:
        result = products(model, x1, x2, budget if chunk_bytes is None else int(chunk_bytes))
    except BudgetError as error:
        if chunk_bytes is not None:
            raise
        result = products(model, x1, x2, error.needed)
    check_finite("gram", result, "the product", SLOPES)
    return result


def _by_input(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int) -> Tensor:
    same = x2 is x1

    def product(x1: Tensor, x2: Tensor) -> Tensor:
        try:
            found = None if same else _of_pair(model, x1, x2, chunk_bytes)
            if found is None:
                a = factorise(model, x1.detach())
                found = gram_product(a, a if same else factorise(model, x2.detach()), chunk_bytes)
            return found
        except NoRuleError:
            with torch.inference_mode(False):
                a = reverse(model, x1)
                return gram_product(a, a if same else reverse(model, x2), chunk_bytes, stacks=2)

    with torch.set_grad_enabled(False):  # a microsecond less than no_grad
        return in_parts(product, x1, x2)


def _of_pair(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int) -> Tensor | None:
    """By one run of both, which has half the calls of two; None if they are too large or must stay apart."""
    if x1.numel() > CACHED or 2 * x1.nbytes > chunk_bytes:
        return None
    try:
        both = factorise(model, torch.cat([x1, x2]), joined=True)
    except (RuntimeError, NoRuleError):  # of a function of one batch size; what else is wrong, two runs say again
        return None
    return pair_product(both, chunk_bytes)
