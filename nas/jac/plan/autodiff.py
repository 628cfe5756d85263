"""Jacobians by torch's own differentiation, for what has no layerwise rule: one direction a row or a column."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.jac.errors import BudgetError
from nas.jac.refuse import SLOPES, WEIGHTS, check_apart, check_finite
from nas.jac.watch import Function, guarded, without_noise


def by_autodiff(model: Function, x: Tensor, mode: str, chunk_bytes: int, create_graph: bool) -> Tensor:
    """The Jacobian ``(B, *out, *in)`` in mode ``forward``, ``reverse``, or the cheaper of both: ``auto``."""
    y = output(model, x)
    if mode == "auto":
        if x.numel() < y.numel() and not create_graph:
            try:
                return by_autodiff(model, x, "forward", chunk_bytes, create_graph)
            except RuntimeError:  # torch's word for a forward derivative that is not there
                pass  # what is wrong with the model itself, reverse mode says again
        mode = "reverse"
    with torch.set_grad_enabled(create_graph):
        try:
            flat = (forward if mode == "forward" else reverse)(model, x, chunk_bytes, create_graph)
            check_finite("jacobian", flat, "the Jacobian", SLOPES)
            check_finite("output", y, "the output", WEIGHTS)
            return flat.reshape(len(x), *y.shape[1:], *x.shape[1:])
        except BudgetError:
            if len(x) == 1:
                raise
        return torch.cat([by_autodiff(model, half, mode, chunk_bytes, create_graph) for half in x.tensor_split(2)])


def output(model: Function, x: Tensor) -> Tensor:
    """What the model gives, ``(B, *out)``, without a tape; no batch, coupled samples, random numbers are refused."""
    with torch.no_grad():
        return without_noise(guarded(model, x, flat=False), x.detach())


def reverse(model: Function, x: Tensor, chunk_bytes: int, create_graph: bool) -> Tensor:
    """``(B, M, N)`` by one backward pass a row, some at once; coupled samples and outputs that are no batch refused."""
    with torch.inference_mode(False), torch.enable_grad():
        some, m = rows(model, x, create_graph)
        at_once = directions_at_once(x, m, chunk_bytes)
        return torch.cat([some(slice(first, first + at_once)) for first in range(0, m, at_once)], 1)


def rows(model: Function, x: Tensor, create_graph: bool = False) -> tuple[Callable[[slice], Tensor], int]:
    """A function that gives rows of the Jacobians, ``(B, R, N)``, while tapes are on; and M. Refuses as ``reverse``."""
    leaf = x if create_graph and x.requires_grad else x.detach().clone().requires_grad_()
    y = guarded(model, x)(leaf)
    m = y.shape[1]

    def row(cotangent: Tensor) -> Tensor:
        if not y.requires_grad:
            return x.new_zeros(len(x), x[0].numel())
        derivative: Tensor = torch.autograd.grad(
            y, leaf, cotangent, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )[0]
        return derivative.reshape(len(x), -1)

    check_apart(row, y.detach())
    units = torch.eye(m, dtype=y.dtype, device=y.device).unsqueeze(1).expand(m, *y.shape)
    return lambda block: _vectorised(row, units[block]).transpose(0, 1), m


def forward(model: Function, x: Tensor, chunk_bytes: int, create_graph: bool) -> Tensor:
    """``(B, M, N)`` by one forward-mode pass a column (Wengert 1964), some at once; refuses what ``reverse`` does."""
    run, n = guarded(model, x, forward_tape=create_graph), x[0].numel()
    at_once = directions_at_once(x, n, chunk_bytes)
    units = torch.eye(n, dtype=x.dtype, device=x.device).view(n, 1, *x.shape[1:]).expand(n, *x.shape)
    with torch.inference_mode(False), torch.set_grad_enabled(create_graph):
        at = x if create_graph else x.detach().clone()

        def column(tangent: Tensor) -> Tensor:
            derivative: Tensor = torch.func.jvp(run, (at,), (tangent,))[1]
            return derivative.to(x.dtype)

        check_apart(lambda tangents: column(tangents.view_as(x)), torch.zeros_like(x).reshape(len(x), -1))
        blocks = (units[first : first + at_once] for first in range(0, n, at_once))
        return torch.cat([_vectorised(column, block) for block in blocks]).permute(1, 2, 0)


def _vectorised(carry: Callable[[Tensor], Tensor], units: Tensor) -> Tensor:
    """Unit directions carried together; one by one where torch has no batching rule for something."""
    try:
        together: Tensor = torch.func.vmap(carry)(units)
    except RuntimeError as error:
        if "vmap" not in str(error) and "atching rule" not in str(error):
            raise
        return torch.stack([carry(unit) for unit in units])
    return together


def directions_at_once(x: Tensor, others: int, chunk_bytes: int) -> int:
    """How many directions of the batch ``x`` with ``others`` entries at the other end a budget holds: at least 1."""
    bytes_each = len(x) * max(x[0].numel(), others) * x.element_size()
    if chunk_bytes < bytes_each:
        raise BudgetError(chunk_bytes, bytes_each)
    return chunk_bytes // bytes_each
