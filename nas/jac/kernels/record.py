"""The record of a run: the calls of layers, and where on autograd's tape their cotangents arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from nas.jac.errors import JacobianError
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
"""The functions whose parameters' Jacobian is a product, and the order of their arguments."""
CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
"""With their numbers of dimensions."""
LAST = (F.linear, F.layer_norm, F.rms_norm)
"""Those that give ``(*, features)``, and not ``(N, C, *)``."""


@dataclass
class Sizes:
    """Of a layer, for one sample: an output sees I ``inputs``; O ``outputs`` in all ``groups``; T ``positions``."""

    inputs: int
    outputs: int
    positions: int
    groups: int = 1


@dataclass
class Use:
    """One call of a layer."""

    func: Callable
    arguments: dict[str, Any]
    """By name; tensors without their tape."""
    version: int
    """Of its input, which must not have changed when it is asked for."""
    weight: Tensor | None
    bias: Tensor | None
    """Parameters that want a gradient, or None."""
    shape: torch.Size
    """Of the output."""
    edge: GradientEdge
    """Where on the tape the output's cotangent arrives, whatever is done to the output in place."""
    size: Sizes
    """Of all samples and parameters."""
    cotangents: list[Tensor] = field(default_factory=list)
    """Of the output, one for each seed, once they are taken."""

    def sizes(self, batch: int, weight: bool, bias: bool) -> Sizes:
        """For one sample and those of the parameters that are wanted."""
        positions = self.shape.numel() // self.size.outputs // batch
        return replace(self.size, inputs=self.size.inputs * weight + bias, positions=positions)

    def part(self, batch: int, start: int, stop: int) -> Use:
        """The call with some of ``batch`` samples alone."""
        rows = self.shape[0] // batch
        x = self.arguments["input"][start * rows : stop * rows]
        return replace(self, arguments=self.arguments | {"input": x}, shape=torch.Size((len(x), *self.shape[1:])))

    def activations(self, batch: int, weight: bool = True, bias: bool = False) -> Tensor:
        """What the weight is multiplied with, then ones for the bias, ``(B, G, I, T)``, of B samples in order."""
        size = self.sizes(batch, weight, bias)
        h = self.arguments["input"].new_empty(batch, size.groups, size.inputs, size.positions)
        h[:, :, size.inputs - bias :] = 1
        if weight:
            seen = self._seen().unflatten(1, (size.groups, -1)).unflatten(0, (batch, -1))
            seen = seen.movedim(1, 3 + CONVOLUTIONS.get(self.func, 0))  # (B, G, C / G, *kernel, N / B, *out)
            h[:, :, : size.inputs - bias].view(seen.shape).copy_(seen)
        return h

    def by_position(self, y: Tensor, batch: int) -> Tensor:
        """An array like the output, ``(B, G, O / G, T)``, of B samples in order, each of one or more of its rows."""
        y = self._channels_second(y, self.size.outputs).unflatten(1, (self.size.groups, -1)).unflatten(0, (batch, -1))
        return y.movedim(1, 3).flatten(3)

    def _channels_second(self, x: Tensor, features: int) -> Tensor:
        if self.func in LAST:
            return x.reshape(len(x), -1, features).mT
        return x.reshape(*x.shape[:2], -1)

    def _seen(self) -> Tensor:
        """Inputs, normalised inputs ``(N, Q, T)``, or patches ``(N, C, *kernel, *out)``."""
        x = self.arguments["input"]
        if x._version != self.version:
            rule = "has changed its input in place after the call, so that the derivative there is lost"
            raise JacobianError("model", self.func.__name__, rule, "use the out-of-place operation")
        if self.func in CONVOLUTIONS:
            return self._patches(x)
        if self.func is F.linear:
            return self._channels_second(x, x.shape[-1])
        without = {name: None for name in ("weight", "bias") if name in SIGNATURES[self.func]}
        return self._channels_second(self.func(**self.arguments | without), self.size.outputs)

    def _patches(self, x: Tensor) -> Tensor:
        kernel = self.arguments["weight"].shape[2:]
        stride, dilation = (_each(self.arguments.get(name, 1), kernel) for name in ("stride", "dilation"))
        padding = self.arguments.get("padding", 0)
        if isinstance(padding, str):  # 'same' (stride 1) or 'valid'
            around = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
            sides = [(both // 2, both - both // 2) for both in around]
        else:
            sides = [(side, side) for side in _each(padding, kernel)]
        if any(any(side) for side in sides):
            x = F.pad(x, [zeros for side in reversed(sides) for zeros in side])
        steps, out = x.stride(), self.shape[2:]
        inner = [step * d for step, d in zip(steps[2:], dilation, strict=True)]
        outer = [step * s for step, s in zip(steps[2:], stride, strict=True)]
        return x.as_strided((*x.shape[:2], *kernel, *out), (*steps[:2], *inner, *outer))


def _each(value: Any, kernel: torch.Size) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * len(kernel) if len(values) == 1 else values


class Recorder(TorchFunctionMode):
    """Notes, while it is active, calls of layers, and in ``elements`` about how many numbers the tape holds."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: list[Use] = []
        self.elements = 0

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        y = func(*args, **kwargs)
        outputs = y if isinstance(y, (tuple, list)) else (y,)
        self.elements += sum(t.numel() for t in outputs if isinstance(t, Tensor) and t.requires_grad)
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
        outputs = y.shape[-1] if func is F.linear else y.shape[1]
        outputs = torch.Size(arguments.get("normalized_shape", (outputs,))).numel()
        inputs, groups = 1, outputs
        if func is F.linear or dims is not None:
            inputs, groups = arguments["weight"].numel() // outputs, arguments.get("groups", 1)
        size = Sizes(inputs, outputs, y.numel() // outputs, groups)
        self.uses.append(Use(func, plain, x._version, weight, bias, y.shape, get_gradient_edge(y), size))


def _parameter(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is not None and tensor.is_leaf and tensor.requires_grad else None


class Tape(NamedTuple):
    """What led to an output: parameters by ``id``, how many operations used each of them, and all operations."""

    leaves: dict[int, Tensor]
    arrivals: Counter[int]
    nodes: set[Node]


def read_tape(y: Tensor) -> Tape:
    """Walk autograd's tape back from ``y``: a plain function lists no parameters, and a run need not use all there are.

    Complex parameters are refused.
    """
    tape = Tape({}, Counter(), set())
    waiting: list[Node | None] = [get_gradient_edge(y).node] if y.requires_grad else []
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)  # what autograd's AccumulateGrad carries
        if leaf is not None:
            if leaf.is_complex():
                raise JacobianError("parameter", leaf.dtype, "must be real", "store real and imaginary parts")
            tape.leaves[id(leaf)] = leaf
            tape.arrivals[id(leaf)] += 1
        elif node is not None and node not in tape.nodes:
            tape.nodes.add(node)
            waiting += [child for child, _ in node.next_functions]
    return tape


def vjp(y: Tensor, seed: Tensor, by: Sequence[Tensor | GradientEdge], keep: bool) -> tuple[Tensor | None, ...]:
    """Cotangents of tensors or places on the tape, for the cotangent ``seed`` of ``y``."""
    # Through a scalar, since grad(y, by, seed) imports sympy on its first call: 30 MB and most of a second.
    scalar = (y * seed).sum()
    return torch.autograd.grad(scalar, by, retain_graph=keep, allow_unused=True)  # type: ignore[arg-type]
