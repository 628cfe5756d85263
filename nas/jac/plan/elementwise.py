"""Rules for what treats every entry for itself: activations and arithmetic. See :mod:`nas.jac.plan.layers`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.jac.plan.maps import Identity, LinearMap, Scaled
from nas.jac.plan.steps import note, step
from nas.jac.plan.trace import MODULES, RULES, Node, no_rule, rule

IDENTITY = Identity()
ONE = torch.ones(())
ENTRYWISE = (
    "leaky_relu elu selu celu gelu silu mish softplus softsign hardtanh hardswish hardsigmoid relu6 tanhshrink "
    "hardshrink softshrink threshold exp expm1 log log1p sin cos tan asin acos atan sinh cosh asinh acosh atanh sqrt "
    "rsqrt square reciprocal erf abs neg pow clamp clamp_min clamp_max"
)


@rule("relu")
def _relu(x: Node, inplace: bool = False) -> Node:
    value = torch.relu(x.value)
    note(torch.clamp_min, x.value, 0, out=value)
    return Node(value, (x, Scaled(step(torch.sign, value))))


@rule("tanh")
def _tanh(x: Node) -> Node:
    value = step(torch.tanh, x.value)
    whole = ONE if value.is_cpu else value.new_ones(())  # a number takes the type of what it meets
    return Node(value, (x, Scaled(step(torch.addcmul, whole, value, value, value=-1))))


@rule("sigmoid")
def _sigmoid(x: Node) -> Node:
    value = step(torch.sigmoid, x.value)
    return Node(value, (x, Scaled(step(torch.addcmul, value, value, value, value=-1))))


def _elementwise(function: Any, x: Node, *args: Any, inplace: bool = False, **kwargs: Any) -> Node:
    """A function that treats every entry for itself; torch's own formula gives its slope."""
    if any(isinstance(argument, Tensor) for argument in (*args, *kwargs.values())):
        raise no_rule(f"{function.__name__} with a tensor as its second argument")
    taped = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        entries = x.value if taped and x.value.requires_grad else x.value.detach().clone().requires_grad_()
        total = function(entries, *args, **kwargs).sum()
        slope = torch.autograd.grad(total, entries, create_graph=taped, materialize_grads=True)[0]
    return Node(function(x.value, *args, **kwargs), (x, Scaled(slope)))


def _sum(function: Any, sign: int, x: Any, y: Any, *, alpha: float = 1) -> Node:
    scale = {} if alpha == 1 else {"alpha": alpha}  # by keyword it takes as long as the sum
    return _made("add", function(_value(x), _value(y), **scale), (x, 1), (y, sign * alpha))


@rule("mul", "multiply", "__mul__", "__rmul__")
def _multiply(x: Any, y: Any) -> Node:
    a, b = _value(x), _value(y)
    return _made("mul", a * b, (x, b), (y, a))


@rule("div", "divide", "true_divide", "__truediv__")
def _divide(x: Any, y: Any) -> Node:
    b = _value(y)
    value = _value(x) / b
    by_x = torch.reciprocal(b.to(value.dtype) if isinstance(b, Tensor) else value.new_full((), b))
    return _made("mul", value, (x, by_x), (y, -value / b if isinstance(y, Node) else None))


def _made(name: str, value: Tensor, *terms: tuple[Any, Any]) -> Node:
    """A value that was made from ``terms``: nodes, or constants, each with its slope, a tensor or a number."""
    edges: list[tuple[Node, LinearMap]] = []
    for node, slope in terms:
        if isinstance(node, Node):
            if node.value.shape != value.shape:
                raise no_rule(f"{name} that broadcasts {tuple(node.value.shape)} to {tuple(value.shape)}")
            edges.append((node, _scaled(slope, value)))
    return Node(value, *edges)


def _scaled(slope: Any, like: Tensor) -> LinearMap:
    if not isinstance(slope, Tensor):
        if slope == 1:
            return IDENTITY
        slope = like.new_full((), slope)
    batch = len(slope) if slope.dim() == like.dim() else 1
    return Scaled(slope.to(like.dtype).expand(batch, *like.shape[1:]))


def _value(argument: Any) -> Any:
    return argument.value if isinstance(argument, Node) else argument


rule("add", "__add__", "__radd__")(partial(_sum, torch.add, 1))
rule("sub", "subtract", "__sub__")(partial(_sum, torch.sub, -1))
rule("__rsub__", "rsub")(lambda x, y, *, alpha=1: _sum(torch.sub, -1, y, x, alpha=alpha))
rule("__rtruediv__", "__rdiv__")(lambda x, y: _divide(y, x))
RULES.update({name: partial(_elementwise, getattr(F, name, getattr(torch, name, None))) for name in ENTRYWISE.split()})
RULES.update({"log_sigmoid": partial(_elementwise, F.logsigmoid), "_threshold": RULES["threshold"]})
RULES.update({f"__{name}__": RULES[name] for name in ("pow", "neg", "abs")})
MODULES.update({nn.ReLU: lambda m, x: _relu(x), nn.Tanh: lambda m, x: _tanh(x), nn.Sigmoid: lambda m, x: _sigmoid(x)})
