"""Jacobians by torch's own differentiation, for networks without layerwise rules: a direction a row or a column."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from nas.jac.plan.maps import Carried, Carry, eye, flat
from nas.jac.plan.order import LinearGraph, in_parts
from nas.jac.plan.trace import Node
from nas.jac.refuse import Function, check_apart, guarded, without_noise


def by_autodiff(model: Function, x: Tensor, mode: str, chunk_bytes: int, create_graph: bool) -> Tensor:
    """The Jacobian ``(B, *out, *in)`` in mode ``forward``, ``reverse``, or the cheaper of both: ``auto``."""
    if mode == "auto" and not create_graph and x.numel() < _output(model, x).numel():
        with suppress(RuntimeError):  # torch's word for a forward derivative that is not there
            return by_autodiff(model, x, "forward", chunk_bytes, create_graph)
        # what is wrong with the model itself, reverse mode says again
    record = forward if mode == "forward" else reverse
    with torch.inference_mode(False), torch.set_grad_enabled(create_graph):
        return in_parts(lambda part: record(model, part, create_graph).dense(chunk_bytes), x)


def _output(model: Function, x: Tensor) -> Tensor:
    with torch.no_grad():
        return without_noise(guarded(model, x, flat=False), x.detach())


def reverse(model: Function, x: Tensor, create_graph: bool = False) -> LinearGraph:
    """The network as one map, by backward passes; refuses what is no batch, mixes samples or draws random numbers."""
    with torch.enable_grad():
        leaf = x if create_graph and x.requires_grad else x.detach().clone().requires_grad_()
        y = without_noise(guarded(model, x, flat=False), leaf)
    how = {"retain_graph": True, "create_graph": create_graph, "materialize_grads": True}

    def pull(cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(y, leaf, cotangent, **how)[0] if y.requires_grad else torch.zeros_like(leaf)

    def vjp(cotangents: Tensor) -> Tensor:
        return _together(pull, cotangents.to(y.dtype), len(x))

    def jvp(tangents: Tensor) -> Tensor:
        units = eye(y[0].numel(), y.shape[1:], x).split(tangents.shape[1], 1)  # rows, as many at a time
        carried = torch.cat([flat(tangents) @ flat(vjp(block)).mT for block in units], 2)
        return carried.view(*carried.shape[:2], *y.shape[1:])

    check_apart(pull, y.detach())
    start = Node(x)
    stop = Node(y, (start, Carried(jvp, vjp)))
    return LinearGraph(start, stop, cut=stop)


def forward(model: Function, x: Tensor, create_graph: bool = False) -> LinearGraph:
    """The network as one map, by forward mode (Wengert 1964); refuses what ``reverse`` does."""
    run, at = guarded(model, x, forward_tape=create_graph, flat=False), x if create_graph else x.detach().clone()

    def push(tangent: Tensor) -> Tensor:
        return torch.func.jvp(run, (at,), (tangent,))[1].to(x.dtype)

    def jvp(tangents: Tensor) -> Tensor:
        return _together(push, tangents, len(x))

    start = Node(x)
    stop = Node(_output(model, x), (start, Carried(jvp, vjp=jvp)))  # beginning at the start, no vjp is asked for
    check_apart(push, x.detach())
    return LinearGraph(start, stop, cut=start)


def _together(carry: Carry, stack: Tensor, batch: int) -> Tensor:
    """A stack carried as one; direction by direction where torch has no batching rule for something."""
    stack = stack.expand(batch, *stack.shape[1:])
    try:
        carried = torch.func.vmap(carry, 1, 1)(stack)
    except RuntimeError as error:
        if "vmap" not in str(error) and "atching rule" not in str(error):
            raise
        carried = torch.stack([carry(direction) for direction in stack.unbind(1)], 1)
    return carried.contiguous()  # memory of its own, also where it is the same for all directions
