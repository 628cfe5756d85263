"""Rules for what treats every entry for itself: activations and arithmetic. See :mod:`nas.jac.plan.layers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.jac.plan.maps import Identity, LinearMap, Scaled
from nas.jac.plan.steps import cannot_be_replayed, note, step
from nas.jac.plan.trace import MODULES, RULES, Node, Rule, constant, no_rule, one, rule

IDENTITY = Identity()
ONE = torch.ones(())


@rule("relu")
def _relu(x: Node, inplace: bool = False) -> Node:
    value = torch.relu(x.value)
    note(torch.clamp_min, x.value, 0, out=value)
    return one(x, value, Scaled(step(torch.sign, value)))


@rule("tanh")
def _tanh(x: Node) -> Node:
    value = step(torch.tanh, x.value)
    whole = ONE if value.is_cpu else value.new_ones(())  # a number takes the type of what it meets
    return one(x, value, Scaled(step(torch.addcmul, whole, value, value, value=-1)))


@rule("sigmoid")
def _sigmoid(x: Node) -> Node:
    value = step(torch.sigmoid, x.value)
    return one(x, value, Scaled(step(torch.addcmul, value, value, value, value=-1)))


def _elementwise(function: Callable[..., Tensor]) -> Rule:
    """The rule for a function that treats every entry for itself; torch's own formula gives its slope."""

    def apply(x: Node, *args: Any, inplace: bool = False, **kwargs: Any) -> Node:
        constant(function.__name__, *args, *kwargs.values())
        if not isinstance(x, Node) or any(isinstance(argument, Tensor) for argument in (*args, *kwargs.values())):
            raise no_rule(f"{function.__name__} with a tensor as its second argument")
        cannot_be_replayed()
        taped = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            entries = x.value if taped and x.value.requires_grad else x.value.detach().clone().requires_grad_()
            total = function(entries, *args, **kwargs).sum()
            slope = torch.autograd.grad(total, entries, create_graph=taped, materialize_grads=True)[0]
        return one(x, function(x.value, *args, **kwargs), Scaled(slope))

    return apply


@rule("add", "__add__", "__radd__")
def add(x: Any, y: Any, *, alpha: float = 1) -> Node:
    """``x + alpha * y``, where at least one is a node."""
    a, b = _value(x), _value(y)
    return _sum(a + b if alpha == 1 else torch.add(a, b, alpha=alpha), (x, 1), (y, alpha))


@rule("sub", "subtract", "__sub__")
def _subtract(x: Any, y: Any, *, alpha: float = 1) -> Node:
    a, b = _value(x), _value(y)
    return _sum(a - b if alpha == 1 else torch.sub(a, b, alpha=alpha), (x, 1), (y, -alpha))


@rule("__rsub__", "rsub")
def _subtract_from(x: Any, y: Any, *, alpha: float = 1) -> Node:
    return _subtract(y, x, alpha=alpha)


def _sum(value: Tensor, *terms: tuple[Any, float]) -> Node:
    edges: list[tuple[Node, LinearMap]] = []
    for term, factor in terms:
        if isinstance(term, Node):
            _same_shape("add", term, value)
            unit = IDENTITY if factor == 1 else Scaled(value.new_full((), factor).expand(1, *value.shape[1:]))
            edges.append((term, unit))
    return Node(value, tuple(edges))


@rule("mul", "multiply", "__mul__", "__rmul__")
def multiply(x: Any, y: Any) -> Node:
    """``x * y``, where at least one is a node."""
    value = _value(x) * _value(y)
    return Node(value, tuple(_scaled(node, other, value) for node, other in ((x, y), (y, x)) if isinstance(node, Node)))


@rule("div", "divide", "true_divide", "__truediv__")
def _divide(x: Any, y: Any) -> Node:
    value = _value(x) / _value(y)
    edges = [_scaled(x, value.new_ones(()) / _as(value, y), value)] if isinstance(x, Node) else []
    if isinstance(y, Node):
        edges.append(_scaled(y, -value / y.value, value))
    return Node(value, tuple(edges))


@rule("__rtruediv__", "__rdiv__")
def _divide_into(x: Any, y: Any) -> Node:
    return _divide(y, x)


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


NAMES = {
    F: "leaky_relu elu selu celu gelu silu mish softplus softsign hardtanh hardswish hardsigmoid relu6 tanhshrink "
    "hardshrink softshrink threshold",
    torch: "exp expm1 log log1p sin cos tan asin acos atan sinh cosh asinh acosh atanh sqrt rsqrt square reciprocal "
    "erf abs neg pow clamp clamp_min clamp_max",
}
for _room, _names in NAMES.items():
    for _name in _names.split():
        rule(_name)(_elementwise(getattr(_room, _name)))
for _name, _also in {"pow": "__pow__", "neg": "__neg__", "abs": "__abs__", "threshold": "_threshold"}.items():
    rule(_also)(RULES[_name])
rule("log_sigmoid")(_elementwise(F.logsigmoid))
MODULES.update({nn.ReLU: lambda m, x: _relu(x), nn.Tanh: lambda m, x: _tanh(x), nn.Sigmoid: lambda m, x: _sigmoid(x)})
