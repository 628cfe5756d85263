"""The rule for each torch function: its value as torch computes it, and its derivative as a linear map.

A rule is called as the function is, with :class:`~nas.jac.plan.trace.Node` in place of the tensors that depend on the
network's input. Derivatives are those of calculus, with torch's conventions at kinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.jac.plan.maps import (
    Convolution,
    Dense,
    Gathered,
    Identity,
    LinearMap,
    LogSoftmaxed,
    Normalised,
    Scaled,
    Softmaxed,
)
from nas.jac.plan.steps import cannot_be_replayed, is_noting, note, step
from nas.jac.plan.trace import Node, Rule, no_rule
from nas.jac.refuse import refuse_noise, refuse_statistics

IDENTITY = Identity()


def constant(name: str, *arguments: object) -> None:
    """Refuse arguments that depend on the input where the rule takes them for constants."""
    if any(isinstance(argument, Node) for argument in arguments):
        raise no_rule(f"{name} with an argument other than the first that depends on the input")


def one(node: Node, value: Tensor, derivative: LinearMap) -> Node:
    """A value with one edge."""
    return Node(value, ((node, derivative),))


# Layers


def linear(x: Node, weight: Tensor, bias: Tensor | None = None) -> Node:
    """``F.linear``."""
    if not isinstance(x, Node) or isinstance(weight, Node) or isinstance(bias, Node):
        raise no_rule("linear with a weight that depends on the input")
    if weight.dim() != 2 or x.value.dim() < 2:
        raise no_rule("linear on single features")
    if is_noting():  # the same memory, without a tape
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    return Node(_linear(x.value, weight, bias), ((x, Dense(weight)),))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dim() != 2 or not is_noting():
        return F.linear(x, weight, bias)
    if len(x) == 1:  # a product with a vector takes less time, and no view of the weight
        row = step(torch.mv, weight, x[0]) if bias is None else step(torch.addmv, bias, weight, x[0])
        return row.unsqueeze(0)
    return step(torch.mm, x, weight.t()) if bias is None else step(torch.addmm, bias, x, weight.t())


def convolution(dimensions: int) -> Rule:
    """The rule for ``F.conv1d`` to ``F.conv3d``."""

    def rule(
        x: Node,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Node:
        name = f"conv{dimensions}d"
        constant(name, weight, bias)
        if x.value.dim() != dimensions + 2:
            raise no_rule(f"{name} on a sample without a batch")
        value = getattr(F, name)(x.value, weight, bias, stride, padding, dilation, groups)
        spread = [_each(argument, dimensions) for argument in (stride, dilation)]
        if padding == "same":
            whole = [d * (k - 1) for d, k in zip(spread[1], weight.shape[2:], strict=True)]
            if any(size % 2 for size in whole):
                raise no_rule(f"{name} with padding='same' that is not the same on both sides")
            padding = [size // 2 for size in whole]
        elif padding == "valid":
            padding = 0
        arguments = (spread[0], _each(padding, dimensions), spread[1], [groups])
        return one(x, value, Convolution(weight, tuple(x.shape), arguments))

    return rule


def _each(argument: Any, count: int) -> list[int]:
    values = list(argument) if isinstance(argument, (list, tuple)) else [argument]
    return values * count if len(values) == 1 else values


def batch_norm(x: Node, *args: Any, **kwargs: Any) -> Node:
    """``F.batch_norm`` and ``torch.batch_norm`` with running statistics: a factor a channel."""
    if len(args) == 8:  # torch.batch_norm, with weight and bias first
        args = (*args[2:4], *args[:2], *args[4:7])
    return _batch_norm(x, *args, **kwargs)


def _batch_norm(
    x: Node,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Node:
    constant("batch_norm", running_mean, running_var, weight, bias)
    if training or running_mean is None or running_var is None:
        refuse_statistics("batch_norm")
    value = F.batch_norm(x.value, running_mean, running_var, weight, bias, False, momentum, eps)
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    slope = scale.view(1, -1, *[1] * (x.value.dim() - 2)).expand(1, *x.shape)
    return one(x, value, Scaled(slope))


def layer_norm(
    x: Node,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Node:
    """``F.layer_norm`` and ``torch.layer_norm``."""
    constant("layer_norm", weight, bias)
    if len(shape) >= x.value.dim():
        raise no_rule("layer_norm over the batch")
    normal, derivative = _normalised(x, math.prod(x.shape) // math.prod(shape), eps)
    return _affine(one(x, normal, derivative), weight, bias)


def group_norm(
    x: Node,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Node:
    """``F.group_norm`` and ``torch.group_norm``."""
    constant("group_norm", weight, bias)
    normal, derivative = _normalised(x, groups, eps)
    spread = [None if p is None else p.view(-1, *[1] * (x.value.dim() - 2)) for p in (weight, bias)]
    return _affine(one(x, normal, derivative), spread[0], spread[1])


def _normalised(x: Node, groups: int, eps: float) -> tuple[Tensor, Normalised]:
    grouped = x.value.reshape(len(x.value), groups, -1)
    variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
    scale = torch.rsqrt(variance + eps)
    normal = (grouped - mean) * scale
    return normal.view(x.value.shape), Normalised(normal, scale, tuple(x.shape))


def _affine(x: Node, weight: Tensor | None, bias: Tensor | None) -> Node:
    scaled = x if weight is None else multiply(x, weight)
    return scaled if bias is None else add(scaled, bias)


def dropout(x: Node, p: float = 0.5, training: bool = True, inplace: bool = False) -> Node:
    """Any dropout, which in evaluation hands its input on."""
    if training and p > 0:
        refuse_noise("dropout")
    x.viewed = True  # what comes out is the same tensor
    return x


def softmax(x: Node, dim: int | None = None, _stacklevel: Any = 3, dtype: Any = None) -> Node:
    """``F.softmax``."""
    dtype = _stacklevel if isinstance(_stacklevel, torch.dtype) else dtype  # torch.softmax has it in this place
    dim = _from_end("softmax", x, dim, dtype)
    p = step(torch.softmax, x.value, dim)
    return one(x, p, Softmaxed(p, dim))


def log_softmax(x: Node, dim: int | None = None, _stacklevel: Any = 3, dtype: Any = None) -> Node:
    """``F.log_softmax``."""
    dtype = _stacklevel if isinstance(_stacklevel, torch.dtype) else dtype
    dim = _from_end("log_softmax", x, dim, dtype)
    value = step(torch.log_softmax, x.value, dim)
    return one(x, value, LogSoftmaxed(step(torch.exp, value), dim))


def _from_end(name: str, x: Node, dim: int | None, dtype: Any) -> int:
    dims = x.value.dim()
    if dim is None or dtype not in (None, x.value.dtype) or dim % dims == 0:
        raise no_rule(f"{name} with dim={dim}, dtype={dtype}")
    return dim % dims - dims


def max_pool(dimensions: int) -> Rule:
    """The rule for ``F.max_pool1d`` to ``F.max_pool3d``."""

    def rule(x: Node, *args: Any, return_indices: bool = False, **kwargs: Any) -> Node:
        name = f"max_pool{dimensions}d"
        if return_indices or x.value.dim() != dimensions + 2:
            raise no_rule(f"{name} with return_indices or without a batch")
        value, indices = getattr(F, f"{name}_with_indices")(x.value, *args, **kwargs)
        return one(x, value, Gathered(indices, tuple(x.shape)))

    return rule


def adaptive_max_pool2d(x: Node, size: Any, return_indices: bool = False) -> Node:
    """``F.adaptive_max_pool2d``."""
    if return_indices or x.value.dim() != 4:
        raise no_rule("adaptive_max_pool2d with return_indices or without a batch")
    value, indices = F.adaptive_max_pool2d_with_indices(x.value, size)
    return one(x, value, Gathered(indices, tuple(x.shape)))


# Elementwise operations


def relu(x: Node, inplace: bool = False) -> Node:
    """``F.relu``."""
    value = torch.relu(x.value)
    note(torch.clamp_min, x.value, 0, out=value)
    return Node(value, ((x, Scaled(step(torch.sign, value))),))


def tanh(x: Node) -> Node:
    """``torch.tanh``."""
    value = step(torch.tanh, x.value)
    return Node(value, ((x, Scaled(step(torch.addcmul, value.new_ones(()), value, value, value=-1))),))


def sigmoid(x: Node) -> Node:
    """``torch.sigmoid``."""
    value = step(torch.sigmoid, x.value)
    return Node(value, ((x, Scaled(step(torch.addcmul, value, value, value, value=-1))),))


def elementwise(function: Callable[..., Tensor]) -> Rule:
    """The rule for a function that treats every entry for itself; torch's own formula gives its slope."""

    def rule(x: Node, *args: Any, inplace: bool = False, **kwargs: Any) -> Node:
        constant(function.__name__, *args, *kwargs.values())
        if not isinstance(x, Node) or any(isinstance(argument, Tensor) for argument in (*args, *kwargs.values())):
            raise no_rule(f"{function.__name__} with a tensor as its second argument")
        cannot_be_replayed()
        value = function(x.value, *args, **kwargs)
        return one(x, value, Scaled(_slope(lambda entries: function(entries, *args, **kwargs), x.value)))

    return rule


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    taped = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        entries = x if taped and x.requires_grad else x.detach().clone().requires_grad_()
        value = function(entries)
        ones = torch.ones_like(value)
        slope: Tensor = torch.autograd.grad(value, entries, ones, create_graph=taped, materialize_grads=True)[0]
    return slope


# Arithmetic


def add(x: Node | Tensor | float, y: Node | Tensor | float, *, alpha: float = 1) -> Node:
    """``x + alpha * y``, where at least one is a node."""
    a, b = _value(x), _value(y)
    return _sum(a + b if alpha == 1 else torch.add(a, b, alpha=alpha), (x, 1), (y, alpha))


def subtract(x: Node | Tensor | float, y: Node | Tensor | float, *, alpha: float = 1) -> Node:
    """``x - alpha * y``, where at least one is a node."""
    a, b = _value(x), _value(y)
    return _sum(a - b if alpha == 1 else torch.sub(a, b, alpha=alpha), (x, 1), (y, -alpha))


def subtract_from(x: Node, y: Tensor | float, *, alpha: float = 1) -> Node:
    """``y - alpha * x``: ``torch.rsub``, and what Python calls from the right."""
    return subtract(y, x, alpha=alpha)


def _sum(value: Tensor, *terms: tuple[Any, float]) -> Node:
    edges = []
    for term, factor in terms:
        if isinstance(term, Node):
            _same_shape("add", term, value)
            unit = IDENTITY if factor == 1 else Scaled(value.new_full((), factor).expand(1, *value.shape[1:]))
            edges.append((term, unit))
    return Node(value, tuple(edges))


def multiply(x: Node | Tensor | float, y: Node | Tensor | float) -> Node:
    """``x * y``, where at least one is a node."""
    value = _value(x) * _value(y)
    return Node(value, tuple(_scaled(node, other, value) for node, other in ((x, y), (y, x)) if isinstance(node, Node)))


def divide(x: Node | Tensor | float, y: Node | Tensor | float) -> Node:
    """``x / y``, where at least one is a node."""
    value = _value(x) / _value(y)
    edges = [_scaled(x, value.new_ones(()) / _as(value, y), value)] if isinstance(x, Node) else []
    if isinstance(y, Node):
        edges.append(_scaled(y, -value / y.value, value))
    return Node(value, tuple(edges))


def divide_into(x: Node, y: Tensor | float) -> Node:
    """``y / x``, as Python calls it from the right."""
    return divide(y, x)


def _scaled(node: Node, by: Any, value: Tensor) -> tuple[Node, LinearMap]:
    """The edge of a product to one of its factors, when the other one is ``by``."""
    _same_shape("mul", node, value)
    slope = _as(value, by)
    slope = slope.view((1,) * (value.dim() - slope.dim()) + slope.shape)
    return node, Scaled(slope.expand(slope.shape[0], *value.shape[1:]))


def _as(like: Tensor, argument: Any) -> Tensor:
    argument = _value(argument)
    return argument.to(like.dtype) if isinstance(argument, Tensor) else like.new_full((), argument)


def _same_shape(name: str, node: Node, value: Tensor) -> None:
    if node.value.shape != value.shape:
        raise no_rule(f"{name} that broadcasts {tuple(node.value.shape)} to {tuple(value.shape)}")


def _value(argument: Any) -> Any:
    return argument.value if isinstance(argument, Node) else argument


def matmul(x: Node, y: Tensor) -> Node:
    """``x @ y`` with a constant matrix ``y``."""
    constant("matmul", y)
    if not isinstance(x, Node) or y.dim() != 2 or x.value.dim() < 2:
        raise no_rule("matmul with anything but a constant matrix on the right")
    value = x.value @ y
    return one(x, value, Dense(y.mT))
