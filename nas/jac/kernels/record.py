"""A run that notes every layer whose parameters' Jacobian has a closed form in activations and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from nas.jac.errors import JacobianError
from nas.jac.kernels.layers import patches
from nas.jac.kernels.parameters import tensors_in
from nas.jac.kernels.work import Sizes
from nas.jac.watch import BATCH_NORM

CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
SIGNATURES: dict[Callable, tuple[str, ...]] = {
    F.linear: ("input", "weight", "bias"),
    F.conv1d: CONV,
    F.conv2d: CONV,
    F.conv3d: CONV,
    F.batch_norm: BATCH_NORM,
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
}
"""The functions with a rule, and the order of their arguments."""
CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
"""With their numbers of dimensions."""


@dataclass
class Use:
    """One call of a layer.

    Attributes:
        func: the torch function.
        arguments: of the call, by name; tensors without their tape.
        version: of its input, which must not have changed when it is asked for.
        weight: the parameter, if it is one that wants a gradient.
        bias: the same.
        shape: of the output.
        edge: where on the tape the gradient by the output arrives, whatever is done to the output in place.
    """

    func: Callable
    arguments: dict[str, Any]
    version: int
    weight: Tensor | None
    bias: Tensor | None
    shape: torch.Size
    edge: GradientEdge

    @property
    def multiplies(self) -> bool:
        """Whether the weight is a matrix (Linear, convolution), and not a factor for each channel or feature."""
        return self.func is F.linear or self.func in CONVOLUTIONS

    @property
    def channels_first(self) -> bool:
        """Whether outputs are ``(N, C, *)``, and not ``(*, features)``."""
        return self.func not in (F.linear, F.layer_norm, F.rms_norm)

    def sizes(self, batch: int) -> Sizes:
        """Its sizes for one sample.

        Args:
            batch: number of samples.

        Returns:
            Sizes; for a layer of factors, ``inputs`` is 1.
        """
        outputs = self._outputs()
        positions = self.shape.numel() // outputs // batch
        if not self.multiplies:
            return Sizes(1, outputs, positions)
        weight = self.arguments["weight"]
        return Sizes(weight.numel() // outputs, outputs, positions, self.arguments.get("groups", 1))

    def _outputs(self) -> int:
        if self.func in (F.layer_norm, F.rms_norm):
            return torch.Size(self.arguments["normalized_shape"]).numel()
        return self.shape[-1] if self.func is F.linear else self.shape[1]

    def activations(self, batch: int) -> Tensor:
        """What the weight is multiplied with: inputs, patches, or the normalised input.

        Args:
            batch: number of samples B; several rows of the input may belong to one sample, sample after sample.

        Returns:
            ``(B, Q, T)`` with ``Q`` inputs (of all groups together), channels or features.

        Raises:
            JacobianError: the input has been changed in place since.
        """
        x = self.arguments["input"]
        if x._version != self.version:
            rule = "has changed its input in place after the call, so that the derivative there is lost"
            raise JacobianError("model", self.func.__name__, rule, "use the out-of-place operation")
        if self.func in CONVOLUTIONS:
            return _by_sample(self._patches(x), batch)
        if self.func is not F.linear:
            without = {name: None for name in ("weight", "bias") if name in SIGNATURES[self.func]}
            x = self.func(**self.arguments | without)
        return self.by_position(x, batch)

    def by_position(self, x: Tensor, batch: int) -> Tensor:
        """An array like the output (or the input of a Linear) with its positions last.

        Args:
            x: shaped like the output in all but the features.
            batch: number of samples B.

        Returns:
            ``(B, Q, T)``.
        """
        if self.channels_first:
            return _by_sample(x.reshape(*x.shape[:2], -1), batch)
        features = x.shape[-1] if self.func is F.linear else self._outputs()
        return _by_sample(x.reshape(len(x), -1, features).mT, batch)

    def _patches(self, x: Tensor) -> Tensor:
        kernel = self.arguments["weight"].shape[2:]
        stride, dilation = (_each(self.arguments.get(name, 1), kernel) for name in ("stride", "dilation"))
        padding = self.arguments.get("padding", 0)
        if isinstance(padding, str):  # 'same' (stride 1) or 'valid'
            around = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
            sides = [(both // 2, both - both // 2) for both in around]
        else:
            sides = [(side, side) for side in _each(padding, kernel)]
        return patches(x, kernel, stride, sides, dilation)


def _each(value: Any, kernel: torch.Size) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * len(kernel) if len(values) == 1 else values


def _by_sample(x: Tensor, batch: int) -> Tensor:
    if len(x) == batch:
        return x
    return x.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)


class Recorder(TorchFunctionMode):
    """While it is active, calls of layers are noted.

    Attributes:
        uses: the calls, in order.
        elements: entries of all tensors that calls gave and that need the tape: about what the tape holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uses: list[Use] = []
        self.elements = 0

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        y = func(*args, **kwargs)
        self.elements += sum(t.numel() for t in tensors_in([y]) if t.requires_grad)
        names = SIGNATURES.get(func)
        if names is not None and y.requires_grad:
            self._note(func, dict(zip(names, args, strict=False)) | dict(kwargs), y)
        return y

    def _note(self, func: Callable, arguments: dict[str, Any], y: Tensor) -> None:
        x, weight, bias = arguments["input"], *(_parameter(arguments.get(name)) for name in ("weight", "bias"))
        dims = CONVOLUTIONS.get(func)
        if (weight is None and bias is None) or x.dim() < 2 or (dims is not None and x.dim() != dims + 2):
            return  # what is not noted is found on the tape, and done another way
        plain = {name: value.detach() if isinstance(value, Tensor) else value for name, value in arguments.items()}
        self.uses.append(Use(func, plain, x._version, weight, bias, y.shape, get_gradient_edge(y)))


def _parameter(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is not None and tensor.is_leaf and tensor.requires_grad else None
