"""What is seen, and what is changed, while a network runs: nothing on the network itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nas.eager import EagerDispatchMode
from nas.errors import ScoreError

_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""The arguments of ``F.batch_norm``, in order."""
_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
_LAYERS = {torch.conv2d, F.linear}


class Watch(TorchFunctionMode):
    """Every BatchNorm takes the batch's statistics and remembers nothing of them; no dropout drops anything.

    That holds wherever a function of this kind is called, by a module or without one, and whatever mode the module is
    in. A network that is to be seen so is left in eval mode: what else depends on the mode is then without noise.

    Args:
        proxy: that is asked for, for messages.
    """

    def __init__(self, proxy: str) -> None:
        super().__init__()
        self._proxy = proxy

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            given = dict(zip(_BATCH_NORM, args, strict=False)) | kwargs
            result = self.normalise(given["input"], given.get("weight"), given.get("bias"), given.get("eps", 1e-5))
        elif func in _DROPOUTS:
            result = args[0] if args else kwargs["input"]
        else:
            result = self.carry_out(func, args, kwargs)
        self.saw(result)
        return result

    def normalise(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """What a BatchNorm gives."""
        if x.numel() == x.shape[1]:
            rule = f"needs a BatchNorm's variance, and one gets {tuple(x.shape)}: a single number for each channel"
            raise ScoreError("proxies", self._proxy, rule, "leave it out, or give larger images")
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)

    def carry_out(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What any other function gives."""
        return func(*args, **kwargs)

    def saw(self, result: Any) -> None:
        """Look at what a function gave."""


class Call(NamedTuple):
    """One use of a layer."""

    weight: Tensor
    out: Tensor


class Layers(Watch):
    """Notes each use of a parameter as the weight of a 2-D convolution or a Linear, by a module or without one.

    Args:
        proxy: that is asked for, for messages.
        parameters: that may be weights.
        apart: hand on a copy of what a layer gives, so that ``Call.out`` stays what it was where the next function
            works in place.

    Attributes:
        calls: the uses, in order.
    """

    def __init__(self, proxy: str, parameters: Iterable[Tensor], apart: bool = False) -> None:
        super().__init__(proxy)
        self.calls: list[Call] = []
        self._known, self._apart = {id(parameter) for parameter in parameters}, apart

    def carry_out(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if func in _LAYERS:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            if id(weight) in self._known:
                self.calls.append(Call(weight, result))
                return result.clone() if self._apart else result
        return result


_aten = torch.ops.aten
_ALWAYS = {_aten.relu, _aten.relu_, _aten.leaky_relu, _aten.leaky_relu_, _aten._prelu_kernel}
_ALWAYS |= {_aten.rrelu_with_noise, _aten.rrelu_with_noise_, _aten.rrelu_with_noise_functional}
_FROM = {_aten.hardtanh, _aten.hardtanh_, _aten.threshold, _aten.threshold_}
_FROM |= {_aten.clamp, _aten.clamp_, _aten.clamp_min, _aten.clamp_min_}
"""Rectifiers if they begin at 0, as ReLU6 does."""


class Rectifiers(EagerDispatchMode):
    """Counts on how many of its inputs to ReLUs each pair of images agrees in sign.

    That is ReLU and its like (ReLU6, LeakyReLU, PReLU, ``clamp(min=0)``), of a module or a function, in place or not.

    Args:
        images: in the batch; what is rectified but is no batch, such as a weight, does not count.

    Attributes:
        agreements: float64 ``(B, B)``.
        seen: the number of rectifiers.
    """

    def __init__(self, images: int) -> None:
        super().__init__()
        self.agreements = torch.zeros(images, images, dtype=torch.float64)
        self.seen = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = func.overloadpacket
        if kind in _ALWAYS or (kind in _FROM and _begins_at_zero(kind, args, kwargs)):
            self._count(args[0])
        return func(*args, **kwargs)

    def _count(self, x: Tensor) -> None:
        if x.dim() < 2 or len(x) != len(self.agreements):
            return
        # With signs of 1 and -1 one product counts both kinds of agreement: agreements - disagreements, exactly.
        signs = (x.detach() > 0).flatten(1).float().mul_(2).sub_(1)
        product = (signs @ signs.T).double().cpu()
        self.agreements += (product + signs.shape[1]) / 2
        self.seen += 1


def _begins_at_zero(kind: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    least = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val", -1))
    if isinstance(least, Tensor):
        return False
    return least == 0 and (kind not in (_aten.threshold, _aten.threshold_) or args[2] == 0)
