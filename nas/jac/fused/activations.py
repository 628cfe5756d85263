"""Elementwise activations with first and second derivative, written into memory that is there already.

Conventions at kinks are torch's: the slope of ReLU at 0 is 0, its second derivative is 0 everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

aten = torch.ops.aten


class Curve:
    """An elementwise function ``f``; an instance stands for one setting of its parameters.

    With ``V`` the tangents before it and ``T = f' V`` those after it, a chain's backward pass needs
    ``f'' * sum(dT * V)`` (see :mod:`nas.jac.fused.tape`).
    """

    in_place = True
    """``f''/f'`` is known from ``a``, or ``f''`` is 0: ``T`` may overwrite ``V``, and ``a`` overwrite ``z``."""
    bends = True
    """``f''`` is not 0 everywhere."""

    def value(self, z: Tensor, a: Tensor, slope: Tensor, one: Tensor) -> None:
        """Write ``a = f(z)`` and ``slope = f'(z)``.

        Args:
            z: ``(features, B)``; the same memory as ``a`` where ``in_place``.
            a: ``(features, B)``.
            slope: ``(features, B)``.
            one: the number 1, ``()``.
        """
        raise NotImplementedError

    def bend(self, dz: Tensor, q: Tensor, z: Tensor, a: Tensor, slope: Tensor) -> None:
        """Add what the curvature contributes to the gradient of ``z``.

        Args:
            dz: ``(features, B)``; gets ``q * f''/f'`` where ``in_place``, else ``q * f''``.
            q: ``(features, B)``: the sum of ``dT * T`` where ``in_place``, else of ``dT * V``.
            z: as ``value`` was given it; overwritten where ``in_place``.
            a: ``f(z)``.
            slope: ``f'(z)``.
        """


class Tanh(Curve):
    """``f' = 1 - a^2``, ``f'' = -2 a f'``."""

    def value(self, z: Tensor, a: Tensor, slope: Tensor, one: Tensor) -> None:
        a.tanh_()
        torch.addcmul(one, a, a, value=-1, out=slope)

    def bend(self, dz: Tensor, q: Tensor, z: Tensor, a: Tensor, slope: Tensor) -> None:
        dz.addcmul_(q, a, value=-2)


class Sigmoid(Curve):
    """``f' = a - a^2``, ``f'' = (1 - 2 a) f'``."""

    def value(self, z: Tensor, a: Tensor, slope: Tensor, one: Tensor) -> None:
        a.sigmoid_()
        torch.addcmul(a, a, a, value=-1, out=slope)

    def bend(self, dz: Tensor, q: Tensor, z: Tensor, a: Tensor, slope: Tensor) -> None:
        dz.add_(q).addcmul_(q, a, value=-2)


class ReLU(Curve):
    """``f' = [z > 0]``, ``f'' = 0``."""

    bends = False

    def value(self, z: Tensor, a: Tensor, slope: Tensor, one: Tensor) -> None:
        a.relu_()
        torch.sign(a, out=slope)


class LeakyReLU(Curve):
    """``f' = 1`` above 0, ``below`` elsewhere; ``f'' = 0``."""

    bends = False

    def __init__(self, below: float) -> None:
        self._below = below

    def value(self, z: Tensor, a: Tensor, slope: Tensor, one: Tensor) -> None:
        aten.leaky_relu_backward.grad_input(one, z, self._below, False, grad_input=slope)
        a.mul_(slope)


class Smooth(Curve):
    """A function whose second derivative is not told by its value and its slope: ``z`` and ``V`` are kept.

    Args:
        function: ``f``.
        derivative: torch's own backward function, ``(g, z, grad_input=...)`` to ``g f'(z)``.
        second: ``f''`` as a function of ``z`` and ``f'(z)``.
    """

    in_place = False

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        derivative: Callable[..., Tensor],
        second: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self._function, self._derivative, self._second = function, derivative, second

    def value(self, z: Tensor, a: Tensor, slope: Tensor, one: Tensor) -> None:
        a.copy_(self._function(z))
        self._derivative(one, z, grad_input=slope)

    def bend(self, dz: Tensor, q: Tensor, z: Tensor, a: Tensor, slope: Tensor) -> None:
        dz.addcmul_(q, self._second(z, slope))


@lru_cache
def _elu(alpha: float) -> Curve:
    def derivative(g: Tensor, z: Tensor, grad_input: Tensor) -> Tensor:
        return aten.elu_backward.grad_input(g, alpha, 1, 1, False, z, grad_input=grad_input)

    return Smooth(lambda z: torch.nn.functional.elu(z, alpha), derivative, lambda z, slope: slope * (z < 0))


def _silu_second(z: Tensor, slope: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


def _gelu_second(z: Tensor, slope: Tensor) -> Tensor:
    return (2 - z * z) * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _gelu_tanh_second(z: Tensor, slope: Tensor) -> Tensor:
    # f = z (1 + t) / 2 with t = tanh(u), u = k (z + c z^3).
    k, c = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(k * (z + c * z**3))
    du = k * (1 + 3 * c * z * z)
    return (1 - t * t) * (du + z * (3 * k * c * z - t * du * du))


def _gelu_derivative(kind: str) -> Callable[..., Tensor]:
    def derivative(g: Tensor, z: Tensor, grad_input: Tensor) -> Tensor:
        return aten.gelu_backward.grad_input(g, z, approximate=kind, grad_input=grad_input)

    return derivative


@lru_cache
def _softplus(beta: float, threshold: float) -> Curve:
    def derivative(g: Tensor, z: Tensor, grad_input: Tensor) -> Tensor:
        return aten.softplus_backward.grad_input(g, z, beta, threshold, grad_input=grad_input)

    def second(z: Tensor, slope: Tensor) -> Tensor:
        s = torch.sigmoid(beta * z)
        return beta * s * (1 - s) * (beta * z <= threshold)

    return Smooth(lambda z: torch.nn.functional.softplus(z, beta, threshold), derivative, second)


def _softsign_derivative(g: Tensor, z: Tensor, grad_input: Tensor) -> Tensor:
    return torch.mul(g, (1 + z.abs()) ** -2, out=grad_input)


def _softsign_second(z: Tensor, slope: Tensor) -> Tensor:
    return -2 * z.sign() * (1 + z.abs()) ** -3


_TANH, _SIGMOID, _RELU = Tanh(), Sigmoid(), ReLU()
_SILU = Smooth(torch.nn.functional.silu, aten.silu_backward.grad_input, _silu_second)
_SOFTSIGN = Smooth(torch.nn.functional.softsign, _softsign_derivative, _softsign_second)
_GELU = {
    "none": Smooth(torch.nn.functional.gelu, _gelu_derivative("none"), _gelu_second),
    "tanh": Smooth(
        lambda z: torch.nn.functional.gelu(z, approximate="tanh"), _gelu_derivative("tanh"), _gelu_tanh_second
    ),
}
_leaky_relu = lru_cache(LeakyReLU)

CURVES: dict[type[nn.Module], Callable[[Any], Curve]] = {
    nn.Tanh: lambda module: _TANH,
    nn.Sigmoid: lambda module: _SIGMOID,
    nn.ReLU: lambda module: _RELU,
    nn.LeakyReLU: lambda module: _leaky_relu(module.negative_slope),
    nn.ELU: lambda module: _elu(module.alpha),
    nn.SiLU: lambda module: _SILU,
    nn.GELU: lambda module: _GELU[module.approximate],
    nn.Softplus: lambda module: _softplus(module.beta, module.threshold),
    nn.Softsign: lambda module: _SOFTSIGN,
}
"""The curve of each activation module; the same object for the same settings. ``nn.Identity`` needs none."""
