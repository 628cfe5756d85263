"""Rules for what only moves, adds up or averages the entries within each sample. See :mod:`nas.jac.plan.layers`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.jac.plan.maps import Carried, Carry, LinearMap, Reshaped, folded
from nas.jac.plan.steps import cannot_be_replayed
from nas.jac.plan.trace import MODULES, RULES, Node, no_rule, rule


def _reshaped(name: str, x: Node, *args: Any, **kwargs: Any) -> Node:
    value: Tensor = getattr(x.value, name)(*args, **kwargs)
    if value.dim() < 2 or value.shape[0] != x.value.shape[0] or math.prod(value.shape[1:]) != x.width:
        raise no_rule(f"{name} from {tuple(x.value.shape)} to {tuple(value.shape)}, across samples")
    if value.data_ptr() != x.value.data_ptr():
        cannot_be_replayed()
    return _viewed(x, Node(value, (x, Reshaped(x.shape, value.shape[1:]))))


def _viewed(x: Node, node: Node) -> Node:
    node.viewed = x.viewed = True
    return node


def _moved(name: str, x: Node, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Node:
    """The node of a linear ``function(x, *args, **kwargs)`` that treats samples alike."""

    def operation(batch: Tensor) -> Tensor:
        return function(batch, *args, **kwargs)

    value = operation(x.value)
    if value.dim() < 2 or value.shape[0] != x.value.shape[0]:
        raise no_rule(f"{name} to {tuple(value.shape)}, across samples")
    return Node(value, (x, _carried(operation, x.shape)))


def _carried(operation: Carry, shape: torch.Size) -> LinearMap:
    """The derivative of an operation on batches of samples of ``shape`` that is linear."""

    def vjp(cotangents: Tensor) -> Tensor:
        tape = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            cotangents = cotangents if tape else cotangents.detach().clone()
            x = cotangents.new_zeros(()).expand(len(cotangents), *shape).requires_grad_()
            # Through a scalar, since grad(y, x, cotangent) imports sympy on its first call: 30 MB and 0.3 s.
            scalar = (operation(x) * cotangents).sum()
            return torch.autograd.grad(scalar, x, create_graph=tape, materialize_grads=True)[0]

    return Carried(folded(operation), folded(vjp), fresh=False)


def _pool(name: str, x: Node, *args: Any, **kwargs: Any) -> Node:
    if x.value.dim() != int(name[-2]) + 2:
        raise no_rule(f"{name} on a sample without a batch")
    return _moved(name, x, getattr(F, name), *args, **kwargs)


def _reduce(name: str, x: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node:
    if dim is None:
        raise no_rule(f"{name} over all dimensions, the batch too")
    dims = _apart(name, x, *(dim if isinstance(dim, (list, tuple)) else [dim]))
    if dtype not in (None, x.value.dtype):
        raise no_rule(f"{name} with dtype={dtype}")
    if not keepdim and len(dims) == x.value.dim() - 1:  # the result would be (B,): an entry needs a dimension
        raise no_rule(f"{name} to a single number a sample without keepdim")
    return _moved(name, x, getattr(torch, name), dims, keepdim)


def _apart(name: str, x: Node, *dims: int) -> tuple[int, ...]:
    """The dimensions an operation goes over, if the batch is not among them."""
    if any(int(dim) % x.value.dim() == 0 for dim in dims):
        raise no_rule(f"{name} over the batch")
    return dims


@rule("pad")
def _pad(x: Node, pad: Any, mode: str = "constant", value: float | None = None) -> Node:
    if len(pad) // 2 >= x.value.dim():
        raise no_rule("pad of the batch")
    padded = _moved("pad", x, F.pad, pad, mode)
    if mode == "constant" and value:  # it moves the value and not the derivative
        padded.value = F.pad(x.value, pad, mode, value)
    return padded


@rule("permute")
def _permute(x: Node, *dims: Any, dim: Any = ()) -> Node:
    order = dims or dim
    order = order[0] if isinstance(order[0], (list, tuple)) else order
    if order[0] % x.value.dim() != 0:
        raise no_rule("permute that moves the batch")
    return _viewed(x, _moved("permute", x, torch.permute, order))


@rule("transpose")
def _transpose(x: Node, dim0: int, dim1: int) -> Node:
    return _viewed(x, _moved("transpose", x, torch.transpose, *_apart("transpose", x, dim0, dim1)))


@rule("__getitem__")
def _getitem(x: Node, index: Any) -> Node:
    index = tuple(index) if isinstance(index, (list, tuple)) else ()
    plain = all(isinstance(part, (int, slice, type(None), type(...))) for part in index)
    if not index or not plain or index[0] != slice(None):
        raise no_rule("indexing that does not begin with [:, ...] and go on with numbers and slices")
    return _viewed(x, _moved("indexing", x, Tensor.__getitem__, index))


@rule("chunk")
def _chunk(x: Node, chunks: int, dim: int = 0) -> list[Node]:
    _apart("chunk", x, dim)
    count = len(x.value.chunk(chunks, dim))
    return [_viewed(x, _moved("chunk", x, lambda t, i: t.chunk(chunks, dim)[i], i)) for i in range(count)]


@rule("cat", "concat", "concatenate")
def _cat(tensors: list[Node | Tensor], dim: int = 0) -> Node:
    values = [part.value if isinstance(part, Node) else part for part in tensors]
    value = torch.cat(values, dim)
    dim = int(dim) % value.dim()
    if dim == 0 or any(own.dim() != value.dim() for own in values):
        raise no_rule("cat over the batch, or with an empty tensor of other dimensions")
    edges: list[tuple[Node, LinearMap]] = []
    start = 0
    for part, own in zip(tensors, values, strict=True):
        stop = start + own.shape[dim]
        if isinstance(part, Node):
            around = [0, 0] * (value.dim() - dim - 1) + [start, value.shape[dim] - stop]
            edges.append((part, _carried(partial(F.pad, pad=around), part.shape)))
        start = stop
    return Node(value, *edges)


_POOLS = [f"{kind}_pool{dimensions}d" for kind in ("avg", "adaptive_avg") for dimensions in (1, 2, 3)]
RULES.update({name: partial(_pool, name) for name in _POOLS})
RULES.update({name: partial(_reduce, name) for name in ("mean", "sum")})
RULES.update(
    {name: partial(_reshaped, name) for name in ("flatten", "reshape", "view", "unsqueeze", "squeeze", "unflatten")}
)
RULES["clone"] = lambda x, **kwargs: x
RULES["contiguous"] = lambda x, **kwargs: _viewed(x, x)  # it may be the same tensor
MODULES[nn.Identity] = lambda m, x: x
MODULES[nn.Flatten] = lambda m, x: _reshaped("flatten", x, m.start_dim, m.end_dim)
