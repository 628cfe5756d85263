"""What a plan took from a model, and whether it is still so."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

transforms_active = torch._C._are_functorch_transforms_active  # torch has no public name for it
REPLAYED: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Sequential: (),
    nn.Linear: (),
    nn.Identity: (),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.ReLU: (),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.Softmax: ("dim",),
    nn.LogSoftmax: ("dim",),
}
"""Modules whose rules compute by steps, and the attributes that their code reads besides parameters and children."""
KNOWN = REPLAYED | {
    nn.SiLU: (),
    nn.Softsign: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.Softplus: ("beta", "threshold"),
}
"""Those and others whose code is known."""
FORWARDS = {kind: kind.forward for kind in KNOWN}
"""Their code, which somebody may replace for a whole class."""


class Guard:
    """All that known modules' computation depends on besides values: a change of it makes plans stale.

    It keeps none of the modules alive, but the memory that their parameters had.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules = list(map(ref, modules))
        self._forwards: list[tuple[Any, Any]] = [(kind, FORWARDS[kind]) for kind in {*map(type, modules)}]
        self._containers: list[int] = []
        self._layers: list[int] = []
        self._read: list[tuple[int, str]] = []
        self.tensors: list[Tensor] = []
        for place, module in enumerate(modules):
            if type(module) is nn.Sequential:
                self._containers.append(place)
            elif type(module) is nn.Linear:
                self._layers.append(place)
                self.tensors += [p for p in vars(module)["_parameters"].values() if p is not None]
            for name in KNOWN[type(module)]:
                self._read.append((place, name))
        self._memory = list(map(Tensor.detach, self.tensors))
        self.facts = self._look()

    def _look(self) -> list[object] | None:
        """What there is to compare: the children, the parameters, attributes; None if something is hooked in."""
        modules = [module() for module in self._modules]
        if None in modules or _global_forward_hooks or _global_forward_pre_hooks:
            return None
        for kind, forward in self._forwards:
            if kind.forward is not forward:
                return None
        owns = list(map(vars, modules))
        for own in owns:
            if own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own:
                return None
        facts: list[object] = [*map(type, modules)]
        for place in self._containers:
            facts.append([*map(id, owns[place]["_modules"].values())])
        for place in self._layers:
            facts.append([*map(id, owns[place]["_parameters"].values())])
        for place, name in self._read:
            facts.append(owns[place].get(name))
        return facts

    def holds(self) -> bool:
        """Whether everything is as it was; values in the same memory may have changed."""
        return self._look() == self.facts is not None and all(map(Tensor.is_set_to, self.tensors, self._memory))


def guard(model: object, known: Collection[type] = KNOWN) -> Guard | None:
    """The guard of a model; None where a module's code is not ``known``, or something is hooked in."""
    modules: list[Any] = [model]
    for module in modules:  # which grows
        if type(module) not in known:
            return None
        modules += vars(module)["_modules"].values()
    made = Guard(modules)
    # What hangs on a parameter, which plans hold, could lead to the model and keep it alive.
    return None if made.facts is None or any(map(vars, made.tensors)) else made


def is_plain(x: Tensor) -> bool:
    """Whether nothing changes what calls with ``x`` do: a subclass, a compiler, a transform of torch.func, autocast."""
    if type(x) is not Tensor or torch.compiler.is_compiling() or transforms_active():
        return False
    return not torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type)
