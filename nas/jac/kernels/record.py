"""The record of a run: the calls of layers, and where on autograd's tape their cotangents arrive."""

from __future__ import annotations

import inspect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from nas.jac.errors import JacobianError

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
NORMS = (F.batch_norm, F.layer_norm, F.group_norm, F.rms_norm)
LAST = (F.linear, F.layer_norm, F.rms_norm)  # these give (*, features), and not (N, C, *)
SIGNATURES: dict[Callable, tuple[str, ...]] = {  # of functions by whose parameters the Jacobian is a product
    F.linear: ("input", "weight", "bias"),
    **dict.fromkeys(CONVOLUTIONS, ("input", "weight", "bias", "stride", "padding", "dilation", "groups")),
    **{norm: tuple(inspect.signature(norm).parameters) for norm in NORMS},
}


@dataclass
class Sizes:
    """Of a layer: an output sees I ``inputs``; O ``outputs`` in all ``groups``; T ``positions``."""

    inputs: int
    outputs: int
    positions: int
    groups: int = 1


@dataclass(eq=False)
class Use:
    """One call of a layer."""

    func: Callable
    arguments: dict[str, Any]  # by name; the input without its tape
    version: int  # of the input, which must not have changed when it is asked for
    parameters: dict[str, Tensor]  # "weight" and "bias", where they want a gradient
    shape: torch.Size  # of the output
    edge: GradientEdge  # where the output's cotangent arrives, whatever is done to the output in place
    size: Sizes  # with the inputs of the weight alone, and the positions of all samples
    cotangents: list[Tensor] = field(default_factory=list)  # of the output, one for each seed, once they are taken

    def activations(self, roles: Collection[str], batch: int, start: int, stop: int) -> Tensor:
        """What the weight is multiplied with, then ones for the bias, ``(B, G, I, T)``, of samples ``start`` on."""
        x, size, bias = self.arguments["input"], self.size, "bias" in roles
        rows, inputs = len(x) // batch, size.inputs * ("weight" in roles)
        some = x[start * rows : stop * rows]
        h = x.new_empty(len(some) // rows, size.groups, inputs + bias, size.positions // batch)
        h[:, :, inputs:] = 1
        if inputs and x._version != self.version:
            rule = "has changed its input in place after the call, so that the derivative there is lost"
            raise JacobianError("model", self.func.__name__, rule, "use the out-of-place operation")
        if inputs:
            if self.func in NORMS:
                plain = dict.fromkeys(self.arguments.keys() & {"weight", "bias"})
                some = self.func(**self.arguments | plain | {"input": some})
            seen = (self._patches if self.func in CONVOLUTIONS else self.by_position)(some, len(h))
            h[:, :, :inputs].view(seen.shape).copy_(seen)
        return h

    def by_position(self, y: Tensor, batch: int) -> Tensor:
        """An array like the output, ``(B, G, O / G, T)``, of B samples in order, each of one or more of its rows."""
        if self.func in LAST:
            y = y.reshape(len(y), -1, y.shape[-1] if self.func is F.linear else self.size.outputs).mT
        return self._by_sample(y, batch).flatten(3)

    def _by_sample(self, x: Tensor, batch: int) -> Tensor:
        """``(N, C, *)`` as ``(B, G, C / G, N / B, *)``."""
        return x.reshape(batch, -1, self.size.groups, x.shape[1] // self.size.groups, *x.shape[2:]).movedim(1, 3)

    def _patches(self, x: Tensor, batch: int) -> Tensor:
        """What each output of a convolution sees, ``(B, G, C / G, *kernel, N / B, *out)``."""
        kernel, padding = self.arguments["weight"].shape[2:], self.arguments.get("padding", 0)
        stride, dilation = (_each(self.arguments.get(name, 1), kernel) for name in ("stride", "dilation"))
        spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        zeros = spans if padding == "same" else [2 * p for p in _each(0 if padding == "valid" else padding, kernel)]
        if any(zeros):
            x = F.pad(x, [side for both in reversed(zeros) for side in (both // 2, both - both // 2)])
        x = self._by_sample(x, batch)
        for i, (span, s, d) in enumerate(zip(spans, stride, dilation, strict=True)):
            x = x.unfold(4 + 2 * i, span + 1, s)[..., ::d].movedim(-1, 3 + i)
        return x


def _each(value: int | Sequence[int], kernel: torch.Size) -> Sequence[int]:
    return [value] * len(kernel) if isinstance(value, int) else list(value) * (len(kernel) // len(value))


class Recorder(TorchFunctionMode):
    """Notes, while it is active, each parameter's ``calls`` in layers, and about how many numbers the tape holds."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: defaultdict[Tensor, list[Use]] = defaultdict(list)
        self.elements = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        y = func(*args, **kwargs)
        outputs = y if isinstance(y, (tuple, list)) else (y,)
        self.elements += sum(t.numel() for t in outputs if isinstance(t, Tensor) and t.requires_grad)
        if func in SIGNATURES and y.requires_grad:
            self._note(func, dict(zip(SIGNATURES[func], args, strict=False)) | kwargs, y)
        return y

    def _note(self, func: Callable, given: dict[str, Any], y: Tensor) -> None:
        x: Tensor = given["input"]
        weight: Any = given.get("weight")
        if x.dim() < 2 or (func not in NORMS and weight.dim() != (2 if func is F.linear else x.dim())):
            return  # what is not noted is found on the tape, and done another way
        outputs = math.prod(given.get("normalized_shape", y.shape[-1:] if func is F.linear else y.shape[1:2]))
        inputs, groups = (1, outputs) if func in NORMS else (weight.numel() // outputs, given.get("groups", 1))
        size = Sizes(inputs, outputs, y.numel() // outputs, groups)
        tensors = {role: given.get(role) for role in ("weight", "bias")}
        parameters = {role: p for role, p in tensors.items() if p is not None and p.is_leaf and p.requires_grad}
        use = Use(func, given | {"input": x.detach()}, x._version, parameters, y.shape, get_gradient_edge(y), size)
        for parameter in parameters.values():
            self.calls[parameter].append(use)


def read_tape(y: Tensor) -> tuple[Counter[Tensor], set[Node]]:
    """The parameters that led to ``y``, with how many operations used each, and all operations on autograd's tape."""
    parameters: Counter[Tensor] = Counter()
    nodes: set[Node] = set()
    waiting: list[Node | None] = [get_gradient_edge(y).node] if y.requires_grad else []
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)  # what autograd's AccumulateGrad carries
        if leaf is not None:
            if leaf.is_complex():
                raise JacobianError("parameter", leaf.dtype, "must be real", "store real and imaginary parts")
            parameters[leaf] += 1
        elif node is not None and node not in nodes:
            nodes.add(node)
            waiting += [child for child, _ in node.next_functions]
    return parameters, nodes


def vjp(y: Tensor, seed: Tensor, by: Sequence[Tensor | GradientEdge], keep: bool) -> tuple[Tensor | None, ...]:
    """Cotangents of tensors or places on the tape, for the cotangent ``seed`` of ``y``."""
    # Through a scalar, since grad(y, by, seed) imports sympy on its first call: 30 MB and most of a second.
    return torch.autograd.grad((y * seed).sum(), by, retain_graph=keep, allow_unused=True)  # type: ignore[arg-type]
