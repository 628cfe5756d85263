"""Local derivatives as linear maps: what one operation does to tangents and cotangents.

They travel in stacks: ``(B, R, *shape)`` for R directions of every sample, where the first size may be 1 as long as
they are the same for all samples. ``jvp`` carries tangents ``(B, R, *in)`` from an operation's input to its output,
``vjp`` carries cotangents ``(B, R, *out)`` back; one is the transpose of the other. No map looks at the values of the
network again, so all of them are plain tensor operations, differentiable where a tape is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.jac.plan.steps import note, step, viewed

Carry = Callable[[Tensor], Tensor]


class LinearMap:
    """The derivative of one operation in one of its inputs, and what else is known about it."""

    __slots__ = ()
    jvp: Carry
    vjp: Carry
    fresh = True
    """Whether they give memory that nothing else has."""

    @property
    def macs(self) -> int:
        """Multiply-adds for an entry of what comes out of ``jvp``."""
        return 1

    def times(self, rows: Tensor, /) -> Tensor | None:
        """The map's matrix times rows, ``(out, n)`` to ``(B or 1, out, n)``, where it saves vjps of units."""
        return None

    def logabsdet(self, width: int) -> Tensor | float | None:
        """``log |det|`` of a square map of ``width`` entries, ``(B,)`` or one for all, where it is cheaper than LU."""
        return None


@dataclass(slots=True, eq=False)
class Carried(LinearMap):
    """An operation of which nothing is known but what carries stacks through it, either way."""

    jvp: Carry
    vjp: Carry
    fresh: bool = True
    macs: int = 1


@dataclass(slots=True, eq=False)
class Identity(LinearMap):
    """An operation that hands its input on, such as a sum with something else."""

    fresh = False

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return tangents

    vjp = jvp

    def logabsdet(self, width: int) -> float:
        return 0.0


@dataclass(slots=True, eq=False)
class Reshaped(Identity):
    """A change of ``shape`` to ``out`` within each sample."""

    shape: torch.Size
    out: torch.Size

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return viewed(tangents, *tangents.shape[:2], *self.out)

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        return viewed(cotangents, *cotangents.shape[:2], *self.shape)


@dataclass(slots=True, eq=False)
class Scaled(LinearMap):
    """An elementwise operation: its slope at every entry, ``(B, *shape)`` or ``(1, *shape)``."""

    slope: Tensor

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return step(torch.mul, tangents, self.slope.unsqueeze(1))

    vjp = jvp

    def times(self, rows: Tensor, /) -> Tensor | None:
        return step(torch.mul, rows, self.slope.unsqueeze(2)) if self.slope.dim() == 2 else None

    def logabsdet(self, width: int) -> Tensor | None:
        return self.slope.flatten(1).abs().log().sum(1)


@dataclass(slots=True, eq=False)
class Dense(LinearMap):
    """A Linear: ``weight`` is ``(out, in)``; other dimensions before the last are carried along."""

    weight: Tensor

    @property
    def macs(self) -> int:
        return self.weight.shape[1]

    def jvp(self, tangents: Tensor, /) -> Tensor:
        return _rows_times(tangents, self.weight.mT)

    def vjp(self, cotangents: Tensor, /) -> Tensor:
        return _rows_times(cotangents, self.weight)

    def logabsdet(self, width: int) -> Tensor | None:
        return torch.linalg.slogdet(self.weight)[1] if self.weight.shape == (width, width) else None


def scaled(stack: Tensor, by: Tensor, in_place: bool) -> Tensor:
    """``stack * by``."""
    if not in_place:
        return step(torch.mul, stack, by)
    note(torch.mul, stack.mul_(by), by, out=stack)
    return stack


def _rows_times(stack: Tensor, matrix: Tensor) -> Tensor:
    """``(B, R, *, n) @ (n, m)`` as one product of matrices."""
    if stack.dim() == 3 and stack.shape[0] == 1:  # as it is: a view takes as long as a small product
        return step(torch.bmm, stack, matrix.unsqueeze(0))
    return step(torch.mm, viewed(stack, -1, stack.shape[-1]), matrix).view(*stack.shape[:-1], -1)


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

    def times(self, rows: Tensor, /) -> Tensor | None:
        if self.p.dim() != 2:
            return None
        centred = step(torch.sub, rows, step(torch.mm, self.p, rows).unsqueeze(1))
        return scaled(centred, self.p.unsqueeze(2), in_place=not torch.is_grad_enabled())


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


def folded(function: Carry) -> Carry:
    """A function of batches, for stacks: directions are samples to it."""
    return lambda stack: function(stack.flatten(0, 1)).unflatten(0, stack.shape[:2])


def eye(width: int, shape: Sequence[int], like: Tensor) -> Tensor:
    """All unit directions of a sample of ``shape``, the same for every sample: ``(1, width, *shape)``."""
    return torch.eye(width, dtype=like.dtype, device=like.device).view(1, width, *shape)


def flat(directions: Tensor) -> Tensor:
    """Directions ``(B, R, *shape)`` as ``(B, R, entries)``."""
    return directions if directions.dim() == 3 else viewed(directions, *directions.shape[:2], -1)
