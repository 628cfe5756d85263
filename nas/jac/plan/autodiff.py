"""Jacobians by torch's own differentiation, for what has no layerwise rule: one direction a row or a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nas.jac.errors import BudgetError, JacobianError
from nas.jac.refuse import check_apart, check_modes, check_output, refuse_batch_statistics, refuse_dropout, undo_count

Function = Callable[[Tensor], Tensor]
_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}

NORMS = {"layer_norm", "native_layer_norm", "instance_norm"}


class IndependentSamples(TorchFunctionMode):
    """Refuses what couples the samples of a batch or draws noise, wherever in a function it is called.

    Args:
        forward_tape: refuse LayerNorm and its like too. In torch 2.14 their forward-mode derivatives cannot be
            differentiated: no gradient reaches their input by way of the statistics, without a word.
    """

    def __init__(self, forward_tape: bool = False) -> None:
        super().__init__()
        self.forward_tape = forward_tape

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.batch_norm, torch.batch_norm) and kwargs.get("training", args[5] if len(args) > 5 else False):
            refuse_batch_statistics("batch_norm")
        drops = func in _DROPOUTS and kwargs.get("training", args[2] if len(args) > 2 else True)
        if drops and kwargs.get("p", args[1] if len(args) > 1 else 0.5) > 0:
            refuse_dropout("dropout")
        if self.forward_tape and getattr(func, "__name__", "") in NORMS:
            rule = f"{func.__name__}'s forward-mode derivative cannot be differentiated"
            raise JacobianError("create_graph", True, rule, "use mode='layerwise' or mode='reverse'")
        return func(*args, **kwargs)


def guarded(model: Function, forward_tape: bool = False) -> Function:
    """``model`` with a watch on its samples staying independent.

    Args:
        model: module or function.
        forward_tape: whether its forward-mode derivative is to be differentiated.

    Returns:
        A function that gives the same, or raises a :class:`~nas.jac.errors.JacobianError`.
    """
    check_modes(model)

    def run(x: Tensor) -> Tensor:
        try:
            with IndependentSamples(forward_tape):
                y = model(x.clone())  # a model that works in place changes the copy
        except JacobianError as error:
            undo_count(error)
            raise
        return check_output(y, len(x))

    return run


def reverse(model: Function, x: Tensor, chunk_bytes: int, create_graph: bool) -> Tensor:
    """One backward pass a row, some rows at once.

    Refuses, with a :class:`~nas.jac.errors.JacobianError`: outputs that are no batch, coupled samples.

    Args:
        model: ``(B, *in)`` to ``(B, *out)``.
        x: ``(B, *in)``.
        chunk_bytes: budget in bytes for the rows under way at once.
        create_graph: keep a tape of the result.

    Returns:
        ``(B, M, N)``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x if create_graph and x.requires_grad else x.detach().clone().requires_grad_()
        y = guarded(model)(leaf).reshape(len(x), -1)
        m = y.shape[1]
        if not y.requires_grad:
            return x.new_zeros(len(x), m, x[0].numel())
        at_once = directions_at_once(x, m, chunk_bytes)
        units = torch.eye(m, dtype=y.dtype, device=y.device).unsqueeze(1).expand(m, *y.shape)

        def row(cotangent: Tensor) -> Tensor:
            derivative: Tensor = torch.autograd.grad(
                y, leaf, cotangent, retain_graph=True, create_graph=create_graph, materialize_grads=True
            )[0]
            return derivative.reshape(len(x), -1)

        check_apart(row, y.detach())
        return torch.cat(_vectorised(row, units, at_once)).transpose(0, 1)


def forward(model: Function, x: Tensor, chunk_bytes: int, create_graph: bool) -> Tensor:
    """One forward-mode pass a column, some columns at once.

    Source: Wengert, *A simple automatic derivative evaluation program* (1964).

    Refuses, with a :class:`~nas.jac.errors.JacobianError`: outputs that are no batch, coupled samples.

    Args:
        model: ``(B, *in)`` to ``(B, *out)``.
        x: ``(B, *in)``.
        chunk_bytes: budget in bytes for the columns under way at once.
        create_graph: keep a tape of the result.

    Returns:
        ``(B, M, N)``.
    """
    run, n = guarded(model, forward_tape=create_graph), x[0].numel()
    at_once = directions_at_once(x, n, chunk_bytes)
    units = torch.eye(n, dtype=x.dtype, device=x.device).view(n, 1, *x.shape[1:]).expand(n, *x.shape)
    with torch.inference_mode(False), torch.set_grad_enabled(create_graph):
        at = x if create_graph else x.detach().clone()

        def column(tangent: Tensor) -> Tensor:
            derivative: Tensor = torch.func.jvp(run, (at,), (tangent,))[1]
            return derivative.reshape(len(x), -1).to(x.dtype)

        check_apart(lambda tangents: column(tangents.view_as(x)), torch.zeros_like(x).reshape(len(x), -1))
        return torch.cat(_vectorised(column, units, at_once)).permute(1, 2, 0)


def _vectorised(carry: Callable[[Tensor], Tensor], units: Tensor, at_once: int) -> list[Tensor]:
    """All unit directions carried, some at a time; one at a time where torch has no batching rule for something."""
    together, blocks = torch.func.vmap(carry), range(0, len(units), at_once)
    try:
        return [together(units[first : first + at_once]) for first in blocks]
    except RuntimeError as error:
        if "atching rule" not in str(error):
            raise
    return [carry(unit).unsqueeze(0) for unit in units]


def directions_at_once(x: Tensor, others: int, chunk_bytes: int) -> int:
    """How many directions of the batch ``x`` a budget holds.

    Args:
        x: ``(B, *in)``.
        others: number of entries at the other end.
        chunk_bytes: budget in bytes.

    Returns:
        At least 1.

    Raises:
        BudgetError: not even one.
    """
    bytes_each = len(x) * max(x[0].numel(), others) * x.element_size()
    if chunk_bytes < bytes_each:
        raise BudgetError(chunk_bytes, bytes_each)
    return chunk_bytes // bytes_each
