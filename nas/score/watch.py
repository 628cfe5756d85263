"""Modes that observe a network while it runs, and change BatchNorm and dropout, without touching its modules."""

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


class Call(NamedTuple):
    """One use of a layer."""

    weight: Tensor
    out: Tensor


class Watch(TorchFunctionMode):
    """Makes every BatchNorm use the batch's statistics and every dropout pass its input on; notes each use of a layer.

    This holds for functions that modules call and for functions that the network calls itself, in either mode. A layer
    is a 2-D convolution or a Linear. BatchNorm's running statistics stay as they are. The network should be in eval
    mode, so that whatever else depends on the mode is free of noise.

    Args:
        proxy: the proxy that is computed, for messages.
        parameters: the parameters that count as weights of layers.
        apart: hand on a copy of each layer's output, so that ``Call.out`` keeps its values if the next function works
            in place.

    Attributes:
        calls: the uses of layers, in order.
    """

    def __init__(self, proxy: str, parameters: Iterable[Tensor] = (), apart: bool = False) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._proxy, self._known, self._apart = proxy, {id(parameter) for parameter in parameters}, apart

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            given = dict(zip(_BATCH_NORM, args, strict=False)) | kwargs
            result = self.normalise(given["input"], given.get("weight"), given.get("bias"), given.get("eps", 1e-5))
        elif func in _DROPOUTS:
            result = (args[0] if args else kwargs["input"]).clone()
        else:
            result = func(*args, **kwargs)
        if func in _LAYERS:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            if id(weight) in self._known:
                self.calls.append(Call(weight, result))
                return result.clone() if self._apart else result
        self.saw(result)
        return result

    def normalise(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """Compute a BatchNorm."""
        if x.numel() == x.shape[1]:
            rule = f"needs a BatchNorm's variance, and one gets {tuple(x.shape)}: a single number for each channel"
            raise ScoreError("proxies", self._proxy, rule, "leave it out, or give larger images")
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)

    def saw(self, result: Any) -> None:
        """Look at the result of a function."""


_aten = torch.ops.aten
_ALWAYS = {_aten.relu, _aten.relu_, _aten.leaky_relu, _aten.leaky_relu_, _aten._prelu_kernel}
_ALWAYS |= {_aten.rrelu_with_noise, _aten.rrelu_with_noise_, _aten.rrelu_with_noise_functional}
_FROM = {_aten.hardtanh, _aten.hardtanh_, _aten.threshold, _aten.threshold_}
_FROM |= {_aten.clamp, _aten.clamp_, _aten.clamp_min, _aten.clamp_min_}
"""Rectifiers where their lower bound is 0, as ReLU6's is."""


class Rectifiers(EagerDispatchMode):
    """Counts, for each pair of images, the inputs of ReLUs that have the same sign.

    Rectifiers are ReLU, ReLU6, LeakyReLU, PReLU, ``clamp(min=0)`` and their like, as modules or functions, in place or
    not.

    Args:
        images: number in the batch; rectified tensors of another length, such as weights, do not count.

    Attributes:
        agreements: the counts, float64 ``(B, B)``.
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
