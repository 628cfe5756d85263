"""What a plan took from a model, and whether it is still so."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

KNOWN: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Sequential: (),
    nn.Linear: (),
    nn.Identity: (),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.ReLU: (),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.SiLU: (),
    nn.Softsign: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.Softplus: ("beta", "threshold"),
    nn.Softmax: ("dim",),
    nn.LogSoftmax: ("dim",),
}
"""Modules whose code is known, and the attributes that it reads besides parameters and children."""


class Guard:
    """All that known modules' computation depends on besides values: a change of it makes plans stale."""

    def __init__(self, model: nn.Module) -> None:
        self._owns: list[dict[str, Any]] = []
        self._kinds: list[tuple[nn.Module, type]] = []  # without the model itself, which its plans must not keep alive
        self._hooks: list[dict] = [_global_forward_hooks, _global_forward_pre_hooks]
        self._tables: list[tuple[dict[str, Any], str, tuple]] = []
        self._attributes: list[tuple[dict[str, Any], str, object]] = []
        self._tensors: list[tuple[Tensor, int, object, object]] = []
        for module in model.modules():
            own = module.__dict__
            self._owns.append(own)
            self._hooks += [own["_forward_hooks"], own["_forward_pre_hooks"]]
            self._tables += [
                (own, name, tuple(own[name].values())) for name in ("_modules", "_parameters") if own[name]
            ]
            self._attributes += [(own, name, own.get(name)) for name in KNOWN[type(module)]]
            if module is not model:
                self._kinds.append((module, type(module)))
        for tensor in model.parameters():
            self._tensors.append((tensor, tensor.data_ptr(), tensor.shape, tensor.dtype))

    def holds(self) -> bool:
        """Whether everything is as it was; values in the same memory may have changed."""
        if any(self._hooks):
            return False
        for own in self._owns:
            if "forward" in own:
                return False
        for module, kind in self._kinds:
            if module.__class__ is not kind:
                return False
        for own, name, values in self._tables:
            table = own[name]
            if len(table) != len(values) or not all(map(is_, table.values(), values)):
                return False
        for own, name, value in self._attributes:
            if own.get(name) is not value:
                return False
        for tensor, place, shape, dtype in self._tensors:
            if tensor.data_ptr() != place or tensor.shape != shape or tensor.dtype is not dtype:
                return False
        return True


def guard(model: object) -> Guard | None:
    """The guard of a model; None where a module's code is not known, or something is hooked in."""
    if not isinstance(model, nn.Module) or any(type(module) not in KNOWN for module in model.modules()):
        return None
    made = Guard(model)
    return made if made.holds() else None
