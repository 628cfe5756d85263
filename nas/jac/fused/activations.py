"""Elementwise activations ``a = f(z)`` with the slope ``s = f'(z)`` and the curvature ``c = f''(z)``.

Conventions at kinks are torch's: the slope of ReLU at 0 is 0, its second derivative is 0 everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.jac.plan.guard import KNOWN

Step = Callable[[], object]
"""A call to be made, with its arguments."""
Bend = tuple[int, int, Tensor] | None
"""A second derivative ``m + n t``, as ``(m, n, t)``; None if it is 0."""
AT_ONCE = 2**14
"""Entries that formulas are computed of at once, so that what they make on the way stays in the cache."""
IN_PLACE = {nn.Tanh, nn.Sigmoid, nn.ReLU}
"""The most common ones know their derivatives from ``a``, which may take the place of ``z``: less memory and calls."""

# Python and C++ both read them, with settings of the module filled in, which are numbers; without c, that is 0.
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


NAMES = sorted(kind.__name__ for kind in (*_FORMULAS, nn.GELU))


def formulas(module: nn.Module) -> str | None:
    """What computes ``a``, ``s`` and ``c`` from ``z``, with ``p``, ``q``, ``t`` and ``u``; None where not known."""
    if type(module) is nn.GELU:
        return _GELU.get(module.approximate)
    settings: dict[str, Any] = {name: vars(module).get(name) for name in KNOWN.get(type(module), ())}
    plain = all(type(value) in (int, float) and math.isfinite(value) for value in settings.values())
    return _FORMULAS[type(module)].format_map(settings) if plain and type(module) in _FORMULAS else None


_FUNCTIONS = {f.__name__: f for f in (torch.relu, torch.sigmoid, torch.sign, torch.tanh, F.softplus)}


def _compute(code: CodeType, z: Tensor, results: dict[str, Tensor]) -> None:
    found = {"z": z}
    exec(code, _FUNCTIONS, found)
    for name, memory in results.items():
        memory.copy_(found[name])


def by_formulas(module: nn.Module, z: Tensor, a: Tensor, s: Tensor) -> tuple[list[Step], Bend]:
    """Steps that write ``a`` and ``s``, and what makes ``q f''`` of ``q``."""
    text, results = formulas(module), {"a": a, "s": s}
    assert text is not None
    if "c = " in text:
        results["c"] = torch.empty_like(z)
    code, some = compile(text, type(module).__name__, "exec"), -(-AT_ONCE // len(z))
    parts = zip(z.split(some, 1), *(memory.split(some, 1) for memory in results.values()), strict=True)
    steps: list[Step] = [partial(_compute, code, part, dict(zip(results, own, strict=True))) for part, *own in parts]
    return steps, (0, 1, results["c"]) if "c" in results else None


def in_place(kind: type[nn.Module], one: Tensor, a: Tensor, s: Tensor) -> tuple[list[Step], Bend]:
    """The same where ``a`` overwrites ``z``, and for ``f''/f'``, known from ``a``; ``one`` is the number 1, ``()``."""
    if kind is nn.ReLU:
        return [a.relu_, partial(torch.sign, a, out=s)], None
    function, first = (a.tanh_, one) if kind is nn.Tanh else (a.sigmoid_, a)
    return [function, partial(torch.addcmul, first, a, a, value=-1, out=s)], (int(kind is nn.Sigmoid), -2, a)
