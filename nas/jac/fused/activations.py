"""Elementwise activations with first and second derivative, as calls that write into memory that is there already.

Conventions at kinks are torch's: the slope of ReLU at 0 is 0, its second derivative is 0 everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten
Step = Callable[[], object]
"""A call to be made, with its arguments."""
Curve = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """What computes an elementwise function ``f`` of ``z``, given memory; shapes are alike, but for ``one``."""

    value: Callable[[Tensor, Tensor], Step]
    """``value(z, a)`` writes ``a = f(z)``."""
    slope: Callable[[Tensor, Tensor, Tensor, Tensor], Step]
    """``slope(one, z, a, s)`` writes ``s = f'(z)``; ``one`` is the number 1, ``()``."""
    bend: Callable[[Tensor, Tensor, Tensor, Tensor], Step] | None = None
    """``bend(dz, q, z, s)`` adds ``q f''`` to ``dz``, or ``q f''/f'`` if ``in_place``; None: it is 0."""
    in_place: bool = False
    """Derivatives are known from ``a``: it overwrites ``z``, and the tangents after it those before it."""


def _smooth(function: Callable[..., Tensor], derivative: Callable[..., object], second: Curve | None) -> Activation:
    """From ``f(z)``, ``derivative(one, z, grad_input=s)``, and ``f''`` as a function of ``z`` and ``f'(z)``."""
    return Activation(
        lambda z, a: lambda: a.copy_(function(z)),
        lambda one, z, a, s: partial(derivative, one, z, grad_input=s),
        None if second is None else lambda dz, q, z, s: lambda: dz.addcmul_(q, second(z, s)),
    )


def _leaky_relu(below: float) -> Activation:
    derivative = partial(aten.leaky_relu_backward.grad_input, negative_slope=below, self_is_result=False)
    return _smooth(partial(F.leaky_relu, negative_slope=below), derivative, None)


def _elu(alpha: float) -> Activation:
    def derivative(one: Tensor, z: Tensor, grad_input: Tensor) -> None:
        aten.elu_backward.grad_input(one, alpha, 1, 1, False, z, grad_input=grad_input)

    return _smooth(partial(F.elu, alpha=alpha), derivative, lambda z, slope: slope * (z < 0))


def _softplus(beta: float, threshold: float) -> Activation:
    def second(z: Tensor, slope: Tensor) -> Tensor:
        s = torch.sigmoid(beta * z)
        return beta * s * (1 - s) * (beta * z <= threshold)

    derivative = partial(aten.softplus_backward.grad_input, beta=beta, threshold=threshold)
    return _smooth(partial(F.softplus, beta=beta, threshold=threshold), derivative, second)


def _gelu(kind: str) -> Activation:
    derivative = partial(aten.gelu_backward.grad_input, approximate=kind)
    return _smooth(partial(F.gelu, approximate=kind), derivative, _GELU_SECOND[kind])


def _gelu_tanh_second(z: Tensor, slope: Tensor) -> Tensor:
    # f = z (1 + t) / 2 with t = tanh(u), u = k (z + c z^3).
    k, c = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(k * (z + c * z**3))
    du = k * (1 + 3 * c * z * z)
    return (1 - t * t) * (du + z * (3 * k * c * z - t * du * du))


def _silu_second(z: Tensor, slope: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


_GELU_SECOND: dict[str, Curve] = {
    "none": lambda z, slope: (2 - z * z) * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi),
    "tanh": _gelu_tanh_second,
}
_TANH = Activation(
    lambda z, a: a.tanh_,
    lambda one, z, a, s: partial(torch.addcmul, one, a, a, value=-1, out=s),
    lambda dz, q, a, s: partial(dz.addcmul_, q, a, value=-2),
    in_place=True,
)
_SIGMOID = Activation(
    lambda z, a: a.sigmoid_,
    lambda one, z, a, s: partial(torch.addcmul, a, a, a, value=-1, out=s),
    lambda dz, q, a, s: lambda: dz.add_(q).addcmul_(q, a, value=-2),
    in_place=True,
)
_RELU = Activation(lambda z, a: a.relu_, lambda one, z, a, s: partial(torch.sign, a, out=s), in_place=True)
_SILU = _smooth(F.silu, aten.silu_backward.grad_input, _silu_second)
_SOFTSIGN = _smooth(
    F.softsign,
    lambda one, z, grad_input: torch.pow(1 + z.abs(), -2, out=grad_input),
    lambda z, slope: -2 * z.sign() * (1 + z.abs()) ** -3,
)

ACTIVATIONS: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.Tanh: lambda module: _TANH,
    nn.Sigmoid: lambda module: _SIGMOID,
    nn.ReLU: lambda module: _RELU,
    nn.LeakyReLU: lambda module: _leaky_relu(module.negative_slope),
    nn.ELU: lambda module: _elu(module.alpha),
    nn.SiLU: lambda module: _SILU,
    nn.GELU: lambda module: _gelu(module.approximate),
    nn.Softplus: lambda module: _softplus(module.beta, module.threshold),
    nn.Softsign: lambda module: _SOFTSIGN,
}
"""The function of each activation module, with its settings. ``nn.Identity`` needs none."""
