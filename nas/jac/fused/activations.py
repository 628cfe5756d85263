"""Elementwise activations with first and second derivative: as calls that write into memory there is, and as C++.

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

    code: str
    """In C++: ``a = f(z)``, ``s = f'(z)`` and ``c = f''(z)``."""
    value: Callable[[Tensor, Tensor], Step]
    """``value(z, a)`` writes ``a = f(z)``."""
    slope: Callable[[Tensor, Tensor, Tensor, Tensor], Step]
    """``slope(one, z, a, s)`` writes ``s = f'(z)``; ``one`` is the number 1, ``()``."""
    bend: Callable[[Tensor, Tensor, Tensor, Tensor], Step] | None = None
    """``bend(dz, q, z, s)`` adds ``q f''`` to ``dz``, or ``q f''/f'`` if ``in_place``; None: it is 0."""
    in_place: bool = False
    """Derivatives are known from ``a``: it overwrites ``z``, and the tangents after it those before it."""


def _smooth(code: str, function: Callable, derivative: Callable, second: Curve | None, **options: Any) -> Activation:
    """From ``f(z)``, ``derivative(one, z, grad_input=s)``, and ``f''`` as a function of ``z`` and ``f'(z)``."""

    def slope(one: Tensor, z: Tensor, a: Tensor, s: Tensor) -> Step:
        if z.is_contiguous():  # for one feature oneDNN computes GELU's derivative, and expands no number
            one = torch.ones_like(z)
        return partial(derivative, one, z, grad_input=s, **options)

    return Activation(
        code,
        lambda z, a: lambda: a.copy_(function(z, **options)),
        slope,
        None if second is None else lambda dz, q, z, s: lambda: dz.addcmul_(q, second(z, s)),
    )


def _leaky_relu(module: nn.LeakyReLU) -> Activation:
    code = f"s = where(z > 0, V(1), V({module.negative_slope!r})); a = z * s; c = V(0);"
    derivative = partial(aten.leaky_relu_backward.grad_input, self_is_result=False)
    return _smooth(code, F.leaky_relu, derivative, None, negative_slope=module.negative_slope)


def _elu(module: nn.ELU) -> Activation:
    code = f"""a = where(z > 0, z, {module.alpha!r} * z.expm1());
        s = where(z > 0, V(1), {module.alpha!r} * z.exp()); c = where(z < 0, s, V(0));"""

    def derivative(one: Tensor, z: Tensor, grad_input: Tensor, alpha: float) -> None:
        aten.elu_backward.grad_input(one, alpha, 1, 1, False, z, grad_input=grad_input)

    return _smooth(code, F.elu, derivative, lambda z, slope: slope * (z < 0), alpha=module.alpha)


def _softplus(module: nn.Softplus) -> Activation:
    beta, threshold = module.beta, module.threshold
    code = f"""const V u = {beta!r} * z, p = sigmoid(u), far = u > {threshold!r};
        a = where(far, z, u.exp().log1p() / {beta!r}); s = where(far, V(1), p); c = {beta!r} * s * (1 - s);"""

    def second(z: Tensor, slope: Tensor) -> Tensor:
        return beta * slope * (1 - slope)

    return _smooth(code, F.softplus, aten.softplus_backward.grad_input, second, beta=beta, threshold=threshold)


def _gelu(module: nn.GELU) -> Activation:
    code, second = _GELU[module.approximate]
    return _smooth(code, F.gelu, aten.gelu_backward.grad_input, second, approximate=module.approximate)


def _gelu_tanh_second(z: Tensor, slope: Tensor) -> Tensor:
    # f = z (1 + t) / 2 with t = tanh(u), u = k (z + c z^3).
    k, c = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(k * (z + c * z**3))
    du = k * (1 + 3 * c * z * z)
    return (1 - t * t) * (du + z * (3 * k * c * z - t * du * du))


def _silu_second(z: Tensor, slope: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


_TANH = Activation(
    "a = tanh(z); s = 1 - a * a; c = -2 * a * s;",
    lambda z, a: a.tanh_,
    lambda one, z, a, s: partial(torch.addcmul, one, a, a, value=-1, out=s),
    lambda dz, q, a, s: partial(dz.addcmul_, q, a, value=-2),
    in_place=True,
)
_SIGMOID = Activation(
    "a = sigmoid(z); s = a - a * a; c = (1 - 2 * a) * s;",
    lambda z, a: a.sigmoid_,
    lambda one, z, a, s: partial(torch.addcmul, a, a, a, value=-1, out=s),
    lambda dz, q, a, s: lambda: dz.add_(q).addcmul_(q, a, value=-2),
    in_place=True,
)
_RELU = Activation(
    "a = at::vec::maximum(z, V(0)); s = where(z > 0, V(1), V(0)); c = V(0);",
    lambda z, a: a.relu_,
    lambda one, z, a, s: partial(torch.sign, a, out=s),
    in_place=True,
)
_SILU = _smooth(
    "const V p = sigmoid(z), q = 1 - p; a = z * p; s = p * (1 + z * q); c = p * q * (2 + z * (q - p));",
    F.silu,
    aten.silu_backward.grad_input,
    _silu_second,
)
_SOFTSIGN = _smooth(
    "const V p = 1 / (1 + z.abs()); a = z * p; s = p * p; c = where(z > 0, V(-2), where(z < 0, V(2), V(0))) * s * p;",
    F.softsign,
    lambda one, z, grad_input: torch.pow(1 + z.abs(), -2, out=grad_input),
    lambda z, slope: -2 * z.sign() * (1 + z.abs()) ** -3,
)
_GELU: dict[str, tuple[str, Curve]] = {
    "none": (
        """const V p = 0.5 + 0.5 * (z * 0.7071067811865476).erf(), q = 0.3989422804014327 * (-0.5 * z * z).exp();
        a = z * p; s = p + z * q; c = (2 - z * z) * q;""",
        lambda z, slope: (2 - z * z) * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi),
    ),
    "tanh": (
        """const V k(0.7978845608028654), u = 0.044715 * z * z;
        const V t = tanh(k * z * (1 + u)), du = k * (1 + 3 * u), dt = 1 - t * t;
        a = 0.5 * z * (1 + t); s = 0.5 * (1 + t + z * dt * du);
        c = dt * (du + z * (0.134145 * k * z - t * du * du));""",
        _gelu_tanh_second,
    ),
}

ACTIVATIONS: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.Tanh: lambda module: _TANH,
    nn.Sigmoid: lambda module: _SIGMOID,
    nn.ReLU: lambda module: _RELU,
    nn.LeakyReLU: _leaky_relu,
    nn.ELU: _elu,
    nn.SiLU: lambda module: _SILU,
    nn.GELU: _gelu,
    nn.Softplus: _softplus,
    nn.Softsign: lambda module: _SOFTSIGN,
}
"""The function of each activation module, with its settings. ``nn.Identity`` needs none."""
