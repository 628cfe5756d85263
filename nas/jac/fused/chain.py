"""Which networks the fused path takes: chains of Linear layers and elementwise activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import Identity, Linear, Sequential

from nas.jac.fused.activations import CURVES, Curve
from nas.jac.fused.tape import Layout

is_compiling = torch.compiler.is_compiling
transforms_active = torch._C._are_functorch_transforms_active
autocast_enabled = torch._C._is_any_autocast_enabled
modes = torch._C._len_torch_dispatch_stack


WIDEST = 16
"""Inputs. Carrying a column for each input through each layer is not worth it beyond: measured, the step of a log
determinant takes 0.2 to 0.9 times what the general path takes up to 16 inputs, 0.9 to 1.7 times at 32."""
Chain = tuple[Layout, list[Tensor | None]]
"""A network as the fused path sees it: its stages, and weight and bias of each (None: the stage has none)."""


def read_chain(model: Callable[[Tensor], Tensor], x: Tensor) -> Chain | None:
    """Take a network apart, at a cost of microseconds.

    Args:
        model: module or function.
        x: its input.

    Returns:
        The chain; None if the network is none, if ``x`` is no batch of short vectors, or if something watches it
        at work (hooks, torch.func, autocast, compilation, dispatch modes), so that it has to be run as it is.
    """
    if type(model) is not Sequential or type(x) is not Tensor or _hooked(model):
        return None
    if is_compiling() or transforms_active() or autocast_enabled() or modes():
        return None
    shape = x.shape
    if len(shape) != 2 or not 0 < shape[1] <= WIDEST:
        return None
    return _read(model._modules.values(), shape[1], x.dtype)


def _read(modules: Iterable[nn.Module], start: int, dtype: torch.dtype) -> Chain | None:
    stages: list[tuple[int, Curve | None]] = []
    weights: list[Tensor | None] = []
    width, linear = start, None  # weight and bias that wait for the activation after them
    for module in modules:
        own, kind = module.__dict__, type(module)
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
            return None  # _hooked(module), written out
        if kind is Linear:
            if linear is not None:
                stages.append((width, None))
                weights += linear
            parameters, before = own["_parameters"], width
            if "weight" not in parameters or "bias" not in parameters or "forward" in own:
                return None
            linear = weight, _ = parameters["weight"], parameters["bias"]
            width, inputs = weight.shape
            if inputs != before or width == 0 or weight.dtype is not dtype:
                return None
        elif kind in CURVES and "forward" not in own:
            stages.append((width, CURVES[kind](module)))
            weights += linear or (None, None)
            linear = None
        elif kind in (Sequential, Identity) and "forward" not in own:
            return _read(_children(modules), start, dtype)
        else:
            return None
    if linear is not None:
        stages.append((width, None))
        weights += linear[0], None  # the last bias does not enter the Jacobian
    return (tuple(stages), weights) if stages else None


def _children(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules, with those inside a Sequential in its place, and without those that do nothing."""
    found: list[nn.Module] = []
    for module in modules:
        if type(module) is Sequential and not _hooked(module):
            found += _children(module._modules.values())
        elif type(module) is not Identity or _hooked(module):
            found.append(module)
    return found


def _hooked(module: nn.Module) -> bool:
    own = module.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return bool(hooks) or "forward" in own
