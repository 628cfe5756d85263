"""Elementwise activations ``a = f(z)`` with the slope ``s = f'(z)`` and the curvature ``c = f''(z)``.

Conventions at kinks are torch's: the slope of ReLU at 0 is 0, its second derivative is 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import CodeType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[], object]
"""A call to be made, with its arguments."""

# Python and C++ both read them, with settings of the module filled in; without c, that is 0.
# Signs of what is at least 0 stand for comparisons, which take torch ten times as long.
_FORMULAS = {
    nn.Tanh: "a = tanh(z); s = 1 - a * a; c = -2 * a * s;",
    nn.Sigmoid: "a = sigmoid(z); s = a - a * a; c = (1 - 2 * a) * s;",
    nn.ReLU: "a = relu(z); s = sign(a);",
    nn.LeakyReLU: "s = {negative_slope!r} + (1 - {negative_slope!r}) * sign(relu(z)); a = z * s;",
    nn.ELU: "p = relu(z); q = relu(z.neg()); t = {alpha!r} * q.neg().expm1(); a = p + t;"
    "t = t + {alpha!r}; p = sign(p); s = p + t - p * t; c = sign(q) * t;",
    nn.SiLU: "p = sigmoid(z); q = 1 - p; a = z * p; s = p * (1 + z * q); c = p * q * (2 + z * (q - p));",
    nn.Softplus: "t = {beta!r} * z; p = sigmoid(t); q = sign(relu(t - {threshold!r}));"
    "a = softplus(z, {beta!r}, {threshold!r}); s = p + q - p * q; c = {beta!r} * (s - s * s);",
    nn.Softsign: "p = 1 / (1 + z.abs()); a = z * p; s = p * p; c = 2 * (sign(relu(z.neg())) - sign(relu(z))) * s * p;",
}
_GELU = {
    "none": "p = 0.5 + 0.5 * (z * 0.7071067811865476).erf(); q = 0.3989422804014327 * (-0.5 * z * z).exp();"
    "a = z * p; s = p + z * q; c = (2 - z * z) * q;",
    "tanh": "u = 0.044715 * z * z; t = tanh(0.7978845608028654 * z * (1 + u)); p = 0.7978845608028654 * (1 + 3 * u);"
    "q = 1 - t * t; a = 0.5 * z * (1 + t); s = 0.5 * (1 + t + z * q * p);"
    "c = q * (p + z * (0.10703222440890037 * z - t * p * p));",
}
ACTIVATIONS = {*_FORMULAS, nn.GELU}
"""The modules that are known. ``nn.Identity`` needs no formulas."""


def formulas(module: nn.Module) -> str:
    """What computes ``a``, ``s`` and ``c`` from ``z``, with ``p``, ``q``, ``t`` and ``u`` on the way."""
    if isinstance(module, nn.GELU):
        return _GELU[module.approximate]
    return _FORMULAS[type(module)].format_map(vars(module))


_FUNCTIONS = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}


def compute(code: CodeType, z: Tensor, results: dict[str, Tensor]) -> None:
    """Run compiled formulas and keep their results by their names."""
    found = {"z": z}
    exec(code, _FUNCTIONS, found)
    for name, memory in results.items():
        memory.copy_(found[name])


def bend(c: Tensor | None, start: Tensor, q: Tensor, dz: Tensor) -> list[Step]:
    """Steps that write ``start + q c`` into ``dz``; none if ``c`` is 0."""
    return [] if c is None else [partial(torch.addcmul, start, q, c, out=dz)]


# The most common ones know their derivatives from a alone, which takes the place of z: fewer calls, less memory.


def _tanh(one: Tensor, a: Tensor, s: Tensor) -> list[Step]:
    return [a.tanh_, partial(torch.addcmul, one, a, a, value=-1, out=s)]


def _sigmoid(one: Tensor, a: Tensor, s: Tensor) -> list[Step]:
    return [a.sigmoid_, partial(torch.addcmul, a, a, a, value=-1, out=s)]


def _relu(one: Tensor, a: Tensor, s: Tensor) -> list[Step]:
    return [a.relu_, partial(torch.sign, a, out=s)]


IN_PLACE: dict[type[nn.Module], Callable[[Tensor, Tensor, Tensor], list[Step]]]
IN_PLACE = {nn.Tanh: _tanh, nn.Sigmoid: _sigmoid, nn.ReLU: _relu}
"""From the number 1 ``()``, ``a`` where ``z`` is at first, and the memory of ``s``: steps that write both."""


def bend_in_place(kind: type[nn.Module], a: Tensor, start: Tensor, q: Tensor, dz: Tensor) -> list[Step]:
    """Steps that write ``start + q f''/f'`` into ``dz``: ``f''/f'`` is ``-2a``, for a sigmoid ``1 - 2a``, or 0."""
    if kind is nn.ReLU:
        return []
    first: list[Step] = [partial(torch.add, start, q, out=dz)] if kind is nn.Sigmoid else []
    return [*first, partial(torch.addcmul, dz if first else start, q, a, value=-2, out=dz)]
