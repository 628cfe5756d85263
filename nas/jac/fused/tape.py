"""Values and tangents of a chain of Linear layers and activations, side by side, forward and backward.

Each layer is a block ``(features, 1 + N, B)``: for every feature a row of values over the batch, then one row of
tangents for each of the ``N`` inputs. So a Linear layer is one matrix product for all samples and all columns of
their Jacobians, and everything else goes along contiguous rows. The backward pass is the adjoint of this forward pass,
written out: with ``U = [z | V]`` before an activation and ``A = [f(z) | f'(z) V]`` after it,

    dV = f'(z) dT        dz = f'(z) da + f''(z) sum_k dT_k V_k.

A small network's step is made of calls more than of numbers. So the memory, all views of it and the functions that
work on them are made once for a shape and used again (:mod:`nas.jac.fused.loan`), and the memory is inference tensors
(no version counters, nothing to record), which must be written in inference mode.

Source: Griewank and Walther, *Evaluating Derivatives* (2008), chapter 3 (vector forward mode) and its adjoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, mm, mul, mv

from nas.jac.fused.activations import Curve

# What torch.inference_mode enters, without the microseconds that the class around it takes.
inference = torch._C._InferenceMode

Layout = tuple[tuple[int, Curve | None], ...]
"""Of each stage, a Linear (or nothing) and an activation (or nothing): features and activation."""
Key = tuple[torch.Size, torch.dtype, torch.device, Layout]
"""What memory is made for: shape ``(B, N)`` and type of the input, and the stages."""


def sample_bytes(layout: Layout, n: int, itemsize: int) -> int:
    """About how much memory a tape takes.

    Args:
        layout: of a chain.
        n: number of inputs.
        itemsize: bytes a number.

    Returns:
        Bytes a sample.
    """
    return itemsize * (1 + n) * (n + 3 * sum(features for features, _ in layout))


class Block:
    """One block ``(features, 1 + N, B)`` and the views that are taken of it."""

    __slots__ = ("all", "columns", "flat", "flat_t", "right", "right_t", "tangents", "value", "value_t")

    def __init__(self, memory: Tensor) -> None:
        features, rows, batch = memory.shape
        self.all = memory
        self.flat = memory.view(features, rows * batch)
        self.flat_t = self.flat.t()
        self.value = memory.select(1, 0)  # (features, B)
        self.value_t = self.value.t()
        self.tangents = memory.narrow(1, 1, rows - 1)  # (features, N, B)
        self.columns = self.tangents.unbind(1)
        self.right = self.flat.narrow(1, batch, (rows - 1) * batch)  # (features, N * B)
        self.right_t = self.right.t()


class Stage:
    """A Linear's output ``before``, what the activation makes of it (``after``), and the gradient of ``before``.

    ``push(weight, bias)`` carries values and tangents from ``last``, the output of the stage before, to ``after``;
    ``pull(weight)`` carries the gradient that ``adjoint`` holds of ``after`` to ``before`` and on to ``below``, the
    adjoint of the stage before (None: there is none). A weight of None is no Linear.
    """

    def __init__(self, last: Block, below: Block | None, features: int, curve: Curve | None) -> None:
        shape = (features, *last.all.shape[1:])
        self.adjoint, self.before = Block(last.all.new_empty(shape)), Block(last.all.new_empty(shape))
        in_place = curve is None or curve.in_place
        self.after = self.before if in_place else Block(last.all.new_empty(shape))
        activate, deactivate = _activation(self, curve) if curve is not None else (None, None)
        self.push = _push(last, self.before, activate)
        self.pull = _pull(self.adjoint, below, deactivate)


# The functions below are closures and not methods, since names of theirs are found faster than attributes.


def _push(last: Block, before: Block, activate: Callable[[], None] | None) -> Callable[[Any, Any], None]:
    source, flat, value_t = last.flat, before.flat, before.value_t

    def push(weight: Tensor | None, bias: Tensor | None) -> None:
        if weight is None:
            before.all.copy_(last.all)
        else:
            mm(weight, source, out=flat)
            if bias is not None:
                value_t.add_(bias)
        if activate is not None:
            activate()

    return push


def _pull(adjoint: Block, below: Block | None, deactivate: Callable[[], None] | None) -> Callable[[Any], None]:
    flat_t, out = adjoint.flat_t, None if below is None else below.flat_t

    def pull(weight: Tensor | None) -> None:
        if deactivate is not None:
            deactivate()
        if below is not None:
            if weight is None:
                below.all.copy_(adjoint.all)
            else:
                mm(flat_t, weight, out=out)

    return pull


def _activation(stage: Stage, curve: Curve) -> tuple[Callable[[], None], Callable[[], None]]:
    z, a, dz = stage.before.value, stage.after.value, stage.adjoint.value
    v, t, both = stage.before.tangents, stage.after.tangents, stage.adjoint.all
    slope, q, one = torch.empty_like(z), torch.empty_like(z), z.new_ones(())
    slope_all, value, bend, bends = slope.unsqueeze(1), curve.value, curve.bend, curve.bends
    # Columns of dT, and of V (of T where it has overwritten V).
    (first, partner), *others = zip(stage.adjoint.columns, stage.before.columns, strict=True)

    def activate() -> None:
        value(z, a, slope, one)
        mul(v, slope_all, out=t)

    def deactivate() -> None:
        if bends:
            mul(first, partner, out=q)
            for dt_k, v_k in others:
                q.addcmul_(dt_k, v_k)
            both.mul_(slope_all)
            bend(dz, q, z, a, slope)
        else:
            both.mul_(slope_all)

    return activate, deactivate


class Tape:
    """The memory of one forward and backward pass."""

    def __init__(self, key: Key) -> None:
        (batch, self.n), dtype, device, layout = key
        n, (outputs, curve) = self.n, layout[-1]
        self.head = curve is None  # a last Linear without activation: only its tangents are wanted
        with inference(True):
            whole = torch.zeros(n + 1, 1 + n, batch, dtype=dtype, device=device)
            last, below = Block(whole[:n]), None
            self.input, self.ones = last, whole.new_ones(batch)
            self.det = whole[n, 0]  # next to the values of the input: one sum tells whether all of them are finite
            self.checked = whole[:, 0]
            for column, ones in enumerate(last.columns):
                ones[column] = 1  # dx_i / dx_k
            self.stages: list[Stage] = []
            for features, curve in layout[:-1] if self.head else layout:
                self.stages.append(Stage(last, below, features, curve))
                last, below = self.stages[-1].after, self.stages[-1].adjoint
            self.last, self.below = last, below
            if self.head:
                self.jacobian = whole.new_empty(outputs, n, batch)
                self.top = Block(whole.new_zeros(outputs, 1 + n, batch))  # its values stay 0
            else:
                assert below is not None
                self.jacobian, self.top = last.tangents, below
            self.flat = self.jacobian.view(outputs, -1) if self.head else None
            self.adjoint = self.top.tangents
            self.entries = [row.unbind() for row in self.jacobian.unbind()]
            self.adjoint_entries = [row.unbind() for row in self.adjoint.unbind()]
            self.minus = whole.new_empty(batch)  # scratch for determinants
            self.cofactors = whole.new_empty(self.jacobian.shape if n == 3 else 0)

    def push(self, x: Tensor, weights: Sequence[Any]) -> None:
        """Carry values and tangents forward, into ``jacobian``; in inference mode.

        Args:
            x: ``(B, N)``.
            weights: weight and bias of each stage; None where it has none.
        """
        self.input.value_t.copy_(x)
        number = 0
        for stage in self.stages:
            stage.push(weights[number], weights[number + 1])
            number += 2
        if self.head:
            mm(weights[-2], self.last.right, out=self.flat)

    def pull(self, matrices: Sequence[Any]) -> None:
        """Carry the gradient of ``jacobian``, which is in ``adjoint``, backward to all stages; in inference mode.

        Args:
            matrices: the weight of each stage, without the biases.
        """
        # The values behind the last activation do not enter the Jacobian: their gradient is 0.
        if not self.head:
            self.top.value.zero_()
        elif self.below is not None:
            mm(self.top.flat_t, matrices[-1], out=self.below.flat_t)
        number = len(self.stages)
        while number:
            number -= 1
            self.stages[number].pull(matrices[number])

    def gradients(self, needed: Sequence[bool]) -> list[Tensor | None]:
        """The gradients of the weights, after ``pull``, as ordinary tensors; in grad mode off.

        Args:
            needed: of which.

        Returns:
            One for each of ``weights``; None where it is not needed.
        """
        found: list[Tensor | None] = []
        last = self.input
        for stage in self.stages:
            here = stage.adjoint
            found.append(mm(here.flat, last.flat_t) if needed[len(found)] else None)
            found.append(mv(here.value, self.ones) if needed[len(found)] else None)
            last = stage.after
        if self.head:
            found += (mm(self.top.right, self.last.right_t) if needed[len(found)] else None), None
        return found

    def input_gradient(self, matrix: Tensor | None) -> Tensor | None:
        """The gradient of ``x``, after ``pull``, as an ordinary tensor.

        Args:
            matrix: the weight of the first stage.

        Returns:
            ``(B, N)``, or None: one Linear alone has a constant Jacobian.
        """
        if not self.stages:
            return None
        dz = self.stages[0].adjoint.value_t
        return mm(dz, matrix) if matrix is not None else dz.clone(memory_format=torch.contiguous_format)
