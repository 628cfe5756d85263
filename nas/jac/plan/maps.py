"""Local derivatives as linear maps: what one operation does to tangents and cotangents.

They travel in stacks: ``(B, R, *shape)`` for R directions of every sample, where the first size may be 1 as long as
they are the same for all samples. ``jvp`` carries tangents from an operation's input to its output, ``vjp`` carries
cotangents from its output to its input; one is the transpose of the other. No map looks at the values of the network
again, so all of them are plain tensor operations, differentiable where a tape is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.jac.plan.steps import note, step, viewed

Shape = tuple[int, ...]


class LinearMap:
    """The derivative of one operation in one of its inputs."""

    __slots__ = ()

    def work(self, into: int, out: int) -> int:
        """Multiply-adds for one direction of one sample with ``into`` entries going in and ``out`` coming out."""
        return max(into, out)

    def jvp(self, tangents: Tensor, /) -> Tensor:
        """Carry tangents forwards: ``(B, R, *in)`` to ``(B, R, *out)``."""
        raise NotImplementedError

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        """Carry cotangents backwards: ``(B, R, *out)`` to ``(B, R, *in)``."""
        raise NotImplementedError

    def matrix(self) -> Tensor | None:
        """The map itself, ``(B or 1, out, in)``, where samples are vectors and it is cheaper than a vjp of units."""
        return None

    def logabsdet(self, width: int) -> Tensor | float | None:
        """``log |det|`` of a square map of ``width`` entries, ``(B,)`` or one for all, where it is cheaper than LU."""
        return None


@dataclass(slots=True, eq=False)
class Identity(LinearMap):
    """An operation that hands its input on, such as a sum with something else."""

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return tangents

    vjp = jvp

    def logabsdet(self, width: int) -> float:
        return 0.0


@dataclass(slots=True, eq=False)
class Scaled(LinearMap):
    """An elementwise operation: its slope at every entry, ``(B, *shape)`` or ``(1, *shape)``."""

    slope: Tensor

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return step(torch.mul, tangents, self.slope.unsqueeze(1))

    vjp = jvp

    def matrix(self) -> Tensor | None:
        if self.slope.dim() != 2:
            return None
        whole = torch.diag_embed(self.slope)
        note(whole.diagonal(dim1=1, dim2=2).copy_, self.slope)  # what is beside it stays zero
        return whole

    def logabsdet(self, width: int) -> Tensor | None:
        return self.slope.flatten(1).abs().log().sum(1)


@dataclass(slots=True, eq=False)
class Dense(LinearMap):
    """A Linear: ``weight`` is ``(out, in)``; other dimensions before the last are carried along."""

    weight: Tensor

    def work(self, into: int, out: int) -> int:
        return out * self.weight.shape[1]

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return _rows_times(tangents, self.weight.mT)

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        return _rows_times(cotangents, self.weight)

    def matrix(self) -> Tensor | None:
        return self.weight.unsqueeze(0)

    def logabsdet(self, width: int) -> Tensor | None:
        return torch.linalg.slogdet(self.weight)[1] if self.weight.shape == (width, width) else None


def _rows_times(stack: Tensor, matrix: Tensor) -> Tensor:
    """``(B, R, *, n) @ (n, m)`` as one product of matrices."""
    if stack.dim() == 3 and stack.shape[0] == 1:  # as it is: a view takes as long as a small product
        return step(torch.bmm, stack, matrix.unsqueeze(0))
    return step(torch.mm, viewed(stack, -1, stack.shape[-1]), matrix).view(*stack.shape[:-1], -1)


@dataclass(slots=True, eq=False)
class Convolution(LinearMap):
    """A convolution of one to three dimensions without its bias.

    ``weight`` is ``(out channels, in channels / groups, *kernel)``, ``shape`` that of one sample's input,
    ``(C, *size)``; ``arguments`` are stride, padding, dilation as lists of integers, and groups.
    """

    weight: Tensor
    shape: Shape
    arguments: tuple[list[int], ...]

    def work(self, into: int, out: int) -> int:
        return out * self.weight[0].numel()

    def jvp(self, tangents: Tensor, /) -> Tensor:
        stride, padding, dilation, groups = self.arguments
        folded, none = tangents.flatten(0, 1), [0] * len(stride)
        carried = torch.convolution(folded, self.weight, None, stride, padding, dilation, False, none, groups[0])
        return carried.unflatten(0, tangents.shape[:2])

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        stride, padding, dilation, groups = self.arguments
        folded, none = cotangents.flatten(0, 1), [0] * len(stride)
        like = folded.new_empty(1).expand(len(folded), *self.shape)  # only its sizes are looked at
        carried: Tensor = torch.ops.aten.convolution_backward(
            folded, like, self.weight, None, stride, padding, dilation, False, none, groups[0], [True, False, False]
        )[0]
        return carried.unflatten(0, cotangents.shape[:2])


@dataclass(slots=True, eq=False)
class Reshaped(LinearMap):
    """A change of shape within each sample."""

    shape: Shape
    out: Shape

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return viewed(tangents, *tangents.shape[:2], *self.out)

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        return viewed(cotangents, *cotangents.shape[:2], *self.shape)

    def work(self, into: int, out: int) -> int:
        return 0

    def logabsdet(self, width: int) -> float:
        return 0.0


@dataclass(slots=True, eq=False)
class Gathered(LinearMap):
    """Max pooling: each output is the input entry that ``indices`` ``(B, C, *out)`` names in its channel's map."""

    indices: Tensor
    shape: Shape

    def _spread(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        index = self.indices.flatten(2).unsqueeze(1).expand(-1, directions.shape[1], -1, -1)
        return directions.flatten(3).expand(len(index), -1, -1, -1), index

    def jvp(self, tangents: Tensor, /) -> Tensor:
        spread, index = self._spread(tangents)
        return spread.gather(3, index).unflatten(3, self.indices.shape[2:])

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        spread, index = self._spread(cotangents)
        zeros = spread.new_zeros(*index.shape[:3], math.prod(self.shape[1:]))
        return zeros.scatter_add(3, index, spread).unflatten(3, self.shape[1:])


@dataclass(slots=True, eq=False)
class Softmaxed(LinearMap):
    """Softmax over ``dim`` (counted from the end) with the probabilities that it gave: ``diag(p) - p p^T``."""

    p: Tensor
    dim: int

    def jvp(self, tangents: Tensor, /) -> Tensor:
        p = self.p.unsqueeze(1)
        weighted = step(torch.mul, tangents, p)
        total = step(torch.sum, weighted, self.dim, keepdim=True)
        return step(torch.addcmul, weighted, total, p, value=-1)

    vjp = jvp

    def matrix(self) -> Tensor | None:
        p = self.p
        if p.dim() != 2:
            return None
        if torch.is_grad_enabled():
            return torch.addcmul(torch.diag_embed(p), p.unsqueeze(2), p.unsqueeze(1), value=-1)
        whole = step(torch.addcmul, p.new_zeros(()), p.unsqueeze(2), p.unsqueeze(1), value=-1)
        diagonal = whole.diagonal(dim1=1, dim2=2)
        diagonal.add_(p)
        note(torch.add, diagonal, p, out=diagonal)
        return whole


@dataclass(slots=True, eq=False)
class LogSoftmaxed(LinearMap):
    """The logarithm of softmax: ``I - 1 p^T``."""

    p: Tensor
    dim: int

    def jvp(self, tangents: Tensor, /) -> Tensor:
        total = step(torch.sum, step(torch.mul, tangents, self.p.unsqueeze(1)), self.dim, keepdim=True)
        return step(torch.sub, tangents, total)

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        total = step(torch.sum, cotangents, self.dim, keepdim=True)
        return step(torch.addcmul, cotangents, total, self.p.unsqueeze(1), value=-1)


@dataclass(slots=True, eq=False)
class Normalised(LinearMap):
    """Layer or group normalisation without its affine part; ``normal`` is ``(B, groups, entries)``."""

    normal: Tensor
    scale: Tensor
    shape: Shape

    def jvp(self, tangents: Tensor, /) -> Tensor:
        normal, scale = self.normal.unsqueeze(1), self.scale.unsqueeze(1)
        grouped = tangents.reshape(*tangents.shape[:2], *normal.shape[2:])
        along = (grouped * normal).mean(-1, keepdim=True) * normal
        carried = (grouped - grouped.mean(-1, keepdim=True) - along) * scale
        return carried.reshape(*carried.shape[:2], *self.shape)

    vjp = jvp  # it is symmetric


@dataclass(slots=True, eq=False)
class Structural(LinearMap):
    """An operation that is linear as it stands: average pooling, padding, permuting, slicing, sums, means.

    ``operation`` takes a batch ``(B, *shape)``, treats samples alike, and has no constant part.
    """

    operation: Callable[[Tensor], Tensor]
    shape: Shape

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return self.operation(tangents.flatten(0, 1)).unflatten(0, tangents.shape[:2])

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        taped = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            folded = cotangents.flatten(0, 1) if taped else cotangents.detach().clone().flatten(0, 1)
            zeros = folded.new_zeros(len(folded), *self.shape).requires_grad_()
            out = self.operation(zeros)
            carried: Tensor = torch.autograd.grad(out, zeros, folded, create_graph=taped, materialize_grads=True)[0]
        return carried.unflatten(0, cotangents.shape[:2])


def eye(width: int, shape: Sequence[int], like: Tensor) -> Tensor:
    """All unit directions of a sample of ``shape``, the same for every sample: ``(1, width, *shape)``."""
    unit = torch.eye(width, dtype=like.dtype, device=like.device)
    return unit.unsqueeze(0) if len(shape) == 1 else unit.view(1, width, *shape)


def flat(directions: Tensor) -> Tensor:
    """Directions ``(B, R, *shape)`` as ``(B, R, entries)``."""
    return directions if directions.dim() == 3 else viewed(directions, *directions.shape[:2], -1)
