"""Rules for what only moves, adds up or averages the entries within each sample. See :mod:`nas.jac.plan.layers`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.jac.plan.maps import LinearMap, Local, Reshaped
from nas.jac.plan.steps import cannot_be_replayed
from nas.jac.plan.trace import MODULES, Node, Rule, no_rule, one, rule


def _reshaped(name: str, x: Node, value: Tensor) -> Node:
    """The node of a change of shape, if it leaves samples apart."""
    if value.dim() < 2 or value.shape[0] != x.value.shape[0] or math.prod(value.shape[1:]) != x.width:
        raise no_rule(f"{name} from {tuple(x.value.shape)} to {tuple(value.shape)}, across samples")
    if value.data_ptr() != x.value.data_ptr():
        cannot_be_replayed()
    return _viewed(x, one(x, value, Reshaped(tuple(x.shape), tuple(value.shape[1:]))))


def _reshape(name: str) -> Rule:
    return lambda x, *args, **kwargs: _reshaped(name, x, getattr(x.value, name)(*args, **kwargs))


def _structural(name: str, x: Node, operation: Callable[[Tensor], Tensor]) -> Node:
    """The node of an operation that is linear and treats samples alike."""
    cannot_be_replayed()
    value = operation(x.value)
    if value.dim() < 2 or value.shape[0] != x.value.shape[0]:
        raise no_rule(f"{name} to {tuple(value.shape)}, across samples")
    return one(x, value, _linear(operation, x))


def _linear(operation: Callable[[Tensor], Tensor], x: Node) -> Local:
    return Local(operation, x.value.new_zeros(1, *x.shape))  # its derivative is the same everywhere


def _viewed(x: Node, node: Node) -> Node:
    node.viewed = x.viewed = True
    return node


def _pooling(name: str, dimensions: int) -> Rule:
    function = getattr(F, name)

    def pool(x: Node, *args: Any, **kwargs: Any) -> Node:
        if x.value.dim() != dimensions + 2:
            raise no_rule(f"{name} on a sample without a batch")
        return _structural(name, x, lambda t: function(t, *args, **kwargs))

    return pool


@rule("pad")
def _pad(x: Node, pad: Any, mode: str = "constant", value: float | None = None) -> Node:
    if len(pad) // 2 >= x.value.dim():
        raise no_rule("pad of the batch")
    padded = _structural("pad", x, lambda t: F.pad(t, pad, mode))
    if mode == "constant" and value:  # it moves the value and not the derivative
        padded.value = F.pad(x.value, pad, mode, value)
    return padded


def _dims_of(name: str, x: Node, dim: Any) -> list[int]:
    """The dimensions an operation goes over, counted from the start, if the batch is not among them."""
    if dim is None:
        raise no_rule(f"{name} over all dimensions, the batch too")
    dims = [int(d) % x.value.dim() for d in (dim if isinstance(dim, (list, tuple)) else [dim])]
    if 0 in dims:
        raise no_rule(f"{name} over the batch")
    return dims


def _reduction(name: str) -> Rule:
    def reduce(x: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node:
        dims = _dims_of(name, x, dim)
        if dtype not in (None, x.value.dtype):
            raise no_rule(f"{name} with dtype={dtype}")
        if not keepdim and len(dims) == x.value.dim() - 1:  # the result would be (B,): an entry needs a dimension
            raise no_rule(f"{name} to a single number a sample without keepdim")
        return _structural(name, x, lambda t: getattr(torch, name)(t, dims, keepdim))

    return reduce


@rule("permute")
def _permute(x: Node, *dims: Any, dim: Any = ()) -> Node:
    dims = dims or (dim,)
    order = list(dims[0]) if isinstance(dims[0], (list, tuple)) else list(dims)
    if order[0] % x.value.dim() != 0:
        raise no_rule("permute that moves the batch")
    return _viewed(x, _structural("permute", x, lambda t: t.permute(order)))


@rule("transpose")
def _transpose(x: Node, dim0: int, dim1: int) -> Node:
    _dims_of("transpose", x, (dim0, dim1))
    return _viewed(x, _structural("transpose", x, lambda t: t.transpose(dim0, dim1)))


@rule("__getitem__")
def _getitem(x: Node, index: Any) -> Node:
    index = tuple(index) if isinstance(index, (list, tuple)) else ()
    plain = all(isinstance(part, (int, slice, type(None), type(...))) for part in index)
    if not index or not plain or index[0] != slice(None):
        raise no_rule("indexing that does not begin with [:, ...] and go on with numbers and slices")
    return _viewed(x, _structural("indexing", x, lambda t: t[index]))


@rule("contiguous")
def _contiguous(x: Node, **kwargs: Any) -> Node:
    return _viewed(x, x)  # it may be the same tensor


@rule("chunk")
def _chunk(x: Node, chunks: int, dim: int = 0) -> list[Node]:
    _dims_of("chunk", x, dim)

    def part(number: int) -> Node:
        return _viewed(x, _structural("chunk", x, lambda t: t.chunk(chunks, dim)[number]))

    return [part(number) for number in range(len(x.value.chunk(chunks, dim)))]


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
            place = [0, 0] * (value.dim() - dim - 1) + [start, value.shape[dim] - stop]
            edges.append((part, _linear(lambda t, place=place: F.pad(t, place), part)))  # type: ignore[misc]
        start = stop
    return Node(value, tuple(edges))


for _name in ("flatten", "reshape", "view", "unsqueeze", "squeeze", "unflatten"):
    rule(_name)(_reshape(_name))
for _name in ("mean", "sum"):
    rule(_name)(_reduction(_name))
for _dimensions in (1, 2, 3):
    for _name in (f"avg_pool{_dimensions}d", f"adaptive_avg_pool{_dimensions}d"):
        rule(_name)(_pooling(_name, _dimensions))
rule("clone")(lambda x, **kwargs: x)
MODULES[nn.Identity] = lambda m, x: x
MODULES[nn.Flatten] = lambda m, x: _reshaped("flatten", x, x.value.flatten(m.start_dim, m.end_dim))
