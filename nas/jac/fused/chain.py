"""Which networks the fused path takes: chains of Linear layers and elementwise activations."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nas.jac.fused.activations import formulas

WIDEST = 16
"""Inputs. Carrying a column for each input through each layer is not worth it beyond: measured, the step of a log
determinant takes 0.2 to 0.9 times what the general path takes up to 16 inputs, 0.9 to 1.7 times at 32."""
Chain = list[tuple[nn.Module, int]]
"""Linear layers and activations in order, each with the number of its outputs."""


def read_chain(model: object, x: Tensor) -> Chain | None:
    """The layers of a model of known modules; None if it is no chain for ``x``, or watched in its backward pass."""
    if x.dim() != 2 or not 0 < x.shape[1] <= WIDEST:
        return None
    chain: Chain = []
    width = x.shape[1]
    for layer in _flat(model):
        if type(layer) is nn.Linear:
            weight = layer._parameters.get("weight")
            if weight is None or "bias" not in layer._parameters or weight.dtype is not x.dtype:
                return None
            if weight.shape[1] != width or weight.shape[0] == 0:
                return None
            width = weight.shape[0]
        elif formulas(layer) is None:
            return None
        if layer._backward_hooks or layer._backward_pre_hooks:
            return None
        chain.append((layer, width))
    return chain or None


def _flat(model: Any) -> list[nn.Module]:
    if type(model) is nn.Sequential:
        return [module for child in model for module in _flat(child)]
    return [] if type(model) is nn.Identity else [model]
