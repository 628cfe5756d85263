"""Torch's own differentiation as one linear map, for networks without layerwise rules."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from nas.jac.plan.maps import LinearMap, eye, flat
from nas.jac.plan.order import LinearGraph, in_parts
from nas.jac.plan.trace import Node
from nas.jac.refuse import Function, check_apart, guarded, without_noise


def by_autodiff(model: Function, x: Tensor, mode: str, chunk_bytes: int, create_graph: bool) -> Tensor:
    """The Jacobian ``(B, *out, *in)`` in mode ``forward``, ``reverse``, or the cheaper of both: ``auto``."""
    if mode == "auto" and not create_graph and x.numel() < _output(model, x).numel():
        with suppress(RuntimeError):  # torch's word for a forward derivative that is not there
            return by_autodiff(model, x, "forward", chunk_bytes, create_graph)
        # what is wrong with the model itself, reverse mode says again
    kind = Forward if mode == "forward" else Reverse
    with torch.inference_mode(False), torch.set_grad_enabled(create_graph):
        return in_parts(lambda part: differentiated(kind(model, part, create_graph)).dense(chunk_bytes), x)


def differentiated(derivative: Forward | Reverse) -> LinearGraph:
    """A network as one map."""
    start = Node(derivative.x)
    stop = Node(derivative.y, (start, derivative))
    return LinearGraph(start, stop, start if isinstance(derivative, Forward) else stop)


def _output(model: Function, x: Tensor) -> Tensor:
    with torch.no_grad():
        return without_noise(guarded(model, x, flat=False), x.detach())


class Reverse(LinearMap):
    """Of a network, by backward passes on the tape of one run; no batch, mixed samples, random numbers are refused."""

    def __init__(self, model: Function, x: Tensor, create_graph: bool = False) -> None:
        with torch.enable_grad():
            self.x = x if create_graph and x.requires_grad else x.detach().clone().requires_grad_()
            self.y = without_noise(guarded(model, x, flat=False), self.x)
        self.create_graph = create_graph
        check_apart(self._pull, self.y.detach())

    def _pull(self, cotangent: Tensor) -> Tensor:
        if not self.y.requires_grad:
            return torch.zeros_like(self.x)
        how: dict = {"retain_graph": True, "create_graph": self.create_graph, "materialize_grads": True}
        return torch.autograd.grad(self.y, self.x, cotangent, **how)[0]

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        return _together(self._pull, cotangents.to(self.y.dtype), len(self.x))

    def jvp(self, tangents: Tensor, /) -> Tensor:
        """By rows, as many at a time as there are tangents."""
        units = eye(self.y[0].numel(), self.y.shape[1:], tangents)
        rows = (flat(self.vjp(block)) for block in units.split(tangents.shape[1], 1))
        carried = torch.cat([flat(tangents) @ block.mT for block in rows], 2)
        return carried.view(*carried.shape[:2], *self.y.shape[1:])


class Forward(LinearMap):
    """Of a network, by forward mode (Wengert 1964); refuses what ``Reverse`` does."""

    def __init__(self, model: Function, x: Tensor, create_graph: bool = False) -> None:
        self.x, self.y = x if create_graph else x.detach().clone(), _output(model, x)
        self.run = guarded(model, x, forward_tape=create_graph, flat=False)
        check_apart(self._push, x.detach())

    def _push(self, tangent: Tensor) -> Tensor:
        return torch.func.jvp(self.run, (self.x,), (tangent,))[1].to(self.x.dtype)

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return _together(self._push, tangents, len(self.x))


def _together(carry: Callable[[Tensor], Tensor], stack: Tensor, batch: int) -> Tensor:
    """A stack carried as one; direction by direction where torch has no batching rule for something."""
    stack = stack.expand(batch, *stack.shape[1:])
    try:
        carried = torch.func.vmap(carry, 1, 1)(stack)
    except RuntimeError as error:
        if "vmap" not in str(error) and "atching rule" not in str(error):
            raise
        carried = torch.stack([carry(direction) for direction in stack.unbind(1)], 1)
    return carried.contiguous()  # memory of its own, also where it is the same for all directions
