"""Whether what a checkpoint holds belongs to the network, the optimizer and the gate that are to take it up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.gate import Gate, LearnedGate
from nas.space import Slot
from nas.track import NullWriter, Tracker
from nas.train.optimize import GatedOptimizer


def misfit_of_shapes(model: Mapping[str, object], supernet: nn.Module) -> str:
    """The first name that is missing, too many or of another shape, or nothing; for networks without memory too."""
    own = {name: tuple(value.shape) for name, value in supernet.state_dict().items()}
    found = {name: tuple(value.shape) if isinstance(value, Tensor) else None for name, value in model.items()}
    for name in [*own, *found]:
        if own.get(name) != found.get(name):
            return f"{name} is {found.get(name, 'not there')} and not {own.get(name, 'there')}"
    return ""


def misfit_of_weights(model: Mapping[str, object], supernet: nn.Module, averages: Sequence[object] = ()) -> str:
    """Why weights are not those of ``supernet``, or nothing.

    Args:
        model: by name. Names that are missing or too many, and other shapes, are for ``load_state_dict`` to tell.
        supernet: that is to take them.
        averages: of its trainable parameters, in their order; none at all where a run keeps none.
    """
    own = supernet.state_dict()
    for name, value in model.items():
        if isinstance(value, Tensor) and isinstance(own.get(name), Tensor):
            if value.dtype != own[name].dtype:
                return f"{name} is {value.dtype} and not {own[name].dtype}"
            if not _finite(value):
                return f"{name} is not finite"
    trained = [p for p in supernet.parameters() if p.requires_grad]
    if averages and not _like(averages, trained):
        return "its moving averages are those of another network"
    return ""


def misfit_of_run(
    state: dict[str, Any], optimizer: GatedOptimizer, gate: Gate, slots: Sequence[Slot], total_steps: int
) -> str:
    """Why a run cannot go on from ``state``, or nothing; the weights are not looked at.

    Args:
        state: of the checkpoint.
        optimizer: as it begins.
        gate: as it begins.
        slots: of the space.
        total_steps: of the run.
    """
    if not 0 < state["step"] <= total_steps:
        return f"it is of step {state['step']} in a run of {total_steps}"
    if not _fits_optimizer(state["optimizer"]["optimizer"], optimizer.state_dict()["optimizer"], optimizer.parameters):
        return "its moments are those of another optimizer or network"
    averages = state["optimizer"]["average"]
    if len(averages) != len(optimizer.average) or not _like(averages, list(optimizer.average.values())):
        return "its moving averages are those of another network"
    if not _fits_gate(state["gate"], gate):
        return "its gate is another one"
    try:
        Tracker(NullWriter(), slots, state["track"])
    except ValueError as error:
        return f"its curves: {error}"
    return ""


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _like(found: Sequence[object], expected: Sequence[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(_alike, found, expected))


def _alike(value: object, own: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == own.shape and value.dtype == own.dtype and _finite(value)


def _fits_optimizer(state: dict[str, Any], own: dict[str, Any], parameters: list[nn.Parameter]) -> bool:
    """Whether the state of an optimizer is of these parameters; one that has not been updated yet may have no moments.

    Args:
        state: of the checkpoint.
        own: state of the optimizer as it begins: SGD, Adam or AdamW, with one group.
        parameters: that it updates.
    """
    moments, groups = state.get("state"), state.get("param_groups")
    if not isinstance(moments, dict) or not isinstance(groups, list) or len(groups) != 1:
        return False
    group, settings = groups[0], own["param_groups"][0]
    if not isinstance(group, dict) or not {"params", "lr"} <= group.keys():
        return False
    # All but the learning rate, which every step sets, is as the settings say; another torch may have fewer or more of
    # them. As text, since a file may have tensors.
    if any(repr(group[name]) != repr(settings[name]) for name in group.keys() & settings.keys() - {"lr"}):
        return False
    names = {"exp_avg", "exp_avg_sq"}
    if "momentum" in settings:
        names = {"momentum_buffer"} if settings["momentum"] else set()
        if names and len(moments) != len(parameters):  # fused SGD has all or none
            return False
    for index, values in moments.items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(values, dict):
            return False
        if values.keys() - {"step"} != names or not _steps(values.get("step", 0)):
            return False
        if not all(_alike(values[name], parameters[index].detach()) for name in names):
            return False
    return True


def _steps(value: object) -> bool:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return isinstance(number, int | float) and math.isfinite(number) and number >= 0


def _fits_gate(state: dict[str, Any], gate: Gate) -> bool:
    if not isinstance(gate, LearnedGate):
        return not state
    logits, inner = state.get("logits"), state.get("optimizer")
    return (
        _alike(logits, gate.logits.detach())
        and isinstance(inner, dict)
        and _fits_optimizer(inner, gate.state_dict()["optimizer"], [gate.logits])
    )
