"""An optimizer of the user's own: what it must be like for gated steps, and its state as tensors by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nas.errors import SettingError, require
from nas.plugin import call_factory
from nas.settings import CustomOptimizerSettings
from nas.state import check_values

NUMBER = "number:"
"""What stands before the name of a state that is a Python number."""


def own_optimizer(settings: CustomOptimizerSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """What ``settings.factory`` gives for ``parameters``.

    Raises:
        SettingError: that is no torch optimizer, leaves parameters out, or needs a closure.
    """
    try:
        optimizer = call_factory("optimizer.factory", settings.factory, settings.kwargs, [*parameters], lr=settings.lr)
    except (TypeError, ValueError, LookupError) as error:
        if isinstance(error, SettingError) or not settings.factory.startswith("torch."):
            raise  # a user's own code shows its frames
        rule = f"{settings.factory} does not take these ({error})"
        raise SettingError("optimizer.kwargs", settings.kwargs, rule, "see its documentation") from error
    name, remedy = settings.factory, "return a torch.optim.Optimizer"
    ok = isinstance(optimizer, torch.optim.Optimizer)
    require(ok, "optimizer.factory", name, f"gave a {type(optimizer).__name__}, not an optimizer", remedy)
    held = {p for group in optimizer.param_groups for p in group["params"]}
    rule = f"was given {len(parameters)} parameters, and updates {len(held)}, or others"
    require(held == {*parameters}, "optimizer.factory", name, rule, "put each into a parameter group")
    try:
        inspect.signature(optimizer.step).bind()
    except TypeError:
        rule = "computes the loss again in its step, and a gated step computes it once"
        raise SettingError("optimizer.factory", name, rule, "take one that updates by the gradients") from None
    return optimizer


class OwnState:
    """The state of such an optimizer, which may hold tensors and numbers for each parameter, and nothing else.

    Args:
        settings: that name it, for messages.
        optimizer: as it was made.
    """

    def __init__(self, settings: CustomOptimizerSettings, optimizer: torch.optim.Optimizer) -> None:
        self._name, self._optimizer = settings.factory, optimizer
        self._before: dict[str, float] | None = self._elsewhere()

    def check(self, named: Mapping[str, Tensor]) -> None:
        """Refuse, after the first step, what a checkpoint would not bring back.

        Raises:
            SettingError: the state holds something else, or the optimizer counts something outside of it.
        """
        if self._before is None:
            return
        now, before, self._before = self._elsewhere(), self._before, None
        moved = [key for key in now if key not in before or now[key] != before[key]]
        moved += [f"state[{key!r}]" for key in self._optimizer.state if not isinstance(key, Tensor)]
        rule = f"changes its {', '.join(moved)} in a step, and only the state of each parameter is kept"
        require(not moved, "optimizer.factory", self._name, rule, "keep it in self.state[parameter]")
        self.tensors(named)

    def tensors(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state as ``KIND/NAME`` for a tensor and ``number:KIND/NAME`` for a number; no copies of tensors.

        Raises:
            SettingError: it holds something else.
        """
        found = {}
        for name, parameter in named.items():
            for kind, value in self._optimizer.state.get(parameter, {}).items():
                plain = isinstance(kind, str) and not {*"/:"} & {*kind} and kind != "average"
                rule = f"its state {kind!r} is a {type(value).__name__}, and a checkpoint holds tensors and numbers"
                ok = plain and isinstance(value, Tensor | int | float)
                require(ok, "optimizer.factory", self._name, rule, "keep it as a tensor with a plain name")
                if isinstance(value, Tensor):
                    found[f"{kind}/{name}"] = value
                else:
                    dtype = torch.float64 if isinstance(value, float) else None
                    found[f"{NUMBER}{kind}/{name}"] = torch.tensor(value, dtype=dtype)
        return found

    def load(self, named: Mapping[str, Tensor], state: Mapping[str, object]) -> None:
        """Put what ``tensors()`` gave into a new optimizer; other entries of ``state`` are left alone.

        Raises:
            ValueError: a value is not finite.
        """
        for key, value in state.items():
            kind, _, name = key.partition("/")
            parameter = named.get(name)
            if parameter is None or kind == "average" or not isinstance(value, Tensor):
                continue
            check_values(key, value, value)
            if kind.startswith(NUMBER):
                self._optimizer.state[parameter][kind.removeprefix(NUMBER)] = value.item()
            elif value.shape == parameter.shape and kind != "step":  # in the memory format of the parameter, too
                self._optimizer.state[parameter][kind] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            else:  # torch keeps that counter on the CPU, unless the update reads it on the device
                groups = self._optimizer.param_groups
                there = kind != "step" or any(group.get("fused") or group.get("capturable") for group in groups)
                device = parameter.device if there else torch.device("cpu")
                self._optimizer.state[parameter][kind] = value.detach().clone().to(device)

    def _elsewhere(self) -> dict[str, float]:
        found = {**vars(self._optimizer)}
        for i, group in enumerate(self._optimizer.param_groups):
            found |= {f"group {i}'s {key}": value for key, value in group.items() if key not in ("params", "lr")}
        return {key: float(value) for key, value in found.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
