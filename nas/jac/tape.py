"""Values and tangents of a chain of Linear layers and activations, side by side, forward and backward.

Each layer is a block ``(features, 1 + N, B)``: for every feature a row of values over the batch, then one row of
tangents for each of the ``N`` inputs. So a Linear layer is one matrix product for all samples and all columns of
their Jacobians, and everything else goes along contiguous rows. The backward pass is the adjoint of this forward pass,
written out: with ``U = [z | V]`` before an activation and ``A = [f(z) | f'(z) V]`` after it,

    dV = f'(z) dT        dz = f'(z) da + f''(z) sum_k dT_k V_k.

A small network's step is made of calls more than of numbers. So the memory and all views of it are made once for a
shape and used again, and they are inference tensors (no version counters, nothing to record), which must be written in
inference mode.

Source: Griewank and Walther, *Evaluating Derivatives* (2008), chapter 3 (vector forward mode) and its adjoint.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, mm, mul, mv

from nas.jac.checks import check_input
from nas.jac.curves import Curve

# What torch.inference_mode enters, without the microseconds that the class around it takes.
inference = torch._C._InferenceMode

Layout = tuple[tuple[int, Curve | None], ...]
"""Of each stage, a Linear (or nothing) and an activation (or nothing): features and activation."""
Key = tuple[torch.Size, torch.dtype, torch.device, Layout]
"""What memory is made for: shape ``(B, N)`` and type of the input, and the stages."""

KEPT_BYTES, KEPT_KEYS, KEPT_EACH = 2**23, 8, 2


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
    """A Linear's output ``before``, what the activation makes of it (``after``), and the gradient of ``before``."""

    __slots__ = ("adjoint", "after", "before", "curve", "pairs", "q", "slope", "slope_all")

    def __init__(self, like: Tensor, features: int, curve: Curve | None) -> None:
        shape = (features, *like.shape[1:])
        self.curve, self.adjoint = curve, Block(like.new_empty(shape))
        self.before = self.after = Block(like.new_empty(shape))
        if curve is not None:
            if not curve.in_place:
                self.after = Block(like.new_empty(shape))
            self.slope, self.q = like.new_empty(features, shape[2]), like.new_empty(features, shape[2])
            self.slope_all = self.slope.unsqueeze(1)
            # The gradients of T's columns, and V's columns (T's where it has overwritten V).
            self.pairs = list(zip(self.adjoint.columns, self.before.columns, strict=True))


class Tape:
    """The memory of one forward and backward pass."""

    def __init__(self, key: Key) -> None:
        (batch, n), dtype, device, layout = key
        self.n = n
        outputs, curve = layout[-1]
        self.head = curve is None  # a last Linear without activation: only its tangents are wanted
        with inference(True):
            start = torch.zeros(n, 1 + n, batch, dtype=dtype, device=device)
            self.input = Block(start)
            for column, ones in enumerate(self.input.columns):
                ones[column] = 1  # dx_i / dx_k
            self.one, self.ones = start.new_ones(()), start.new_ones(batch)
            self.stages = [Stage(start, features, curve) for features, curve in (layout[:-1] if self.head else layout)]
            if self.head:
                self.jacobian = start.new_empty(outputs, n, batch)
                self.flat = self.jacobian.view(outputs, -1)
                self.top = Block(start.new_zeros(outputs, 1 + n, batch))  # its values stay 0
            else:
                self.jacobian, self.top = self.stages[-1].after.tangents, self.stages[-1].adjoint
            self.adjoint = self.top.tangents
            below = [None, *(stage.adjoint for stage in self.stages)]
            self.backward = list(zip(range(len(self.stages)), self.stages, below, strict=False))[::-1]
            self.entries = [row.unbind() for row in self.jacobian.unbind()]
            self.adjoint_entries = [row.unbind() for row in self.adjoint.unbind()]
            self.minus = start.new_empty(batch)  # scratch for determinants
            self.cofactors = start.new_empty(self.jacobian.shape if n == 3 else 0)
            self.kept = batch * sample_bytes(layout, n, dtype.itemsize) <= KEPT_BYTES and device.type == "cpu"

    def push(self, x: Tensor, weights: Sequence[Any]) -> None:
        """Carry values and tangents forward, into ``jacobian``; in inference mode.

        Args:
            x: ``(B, N)``.
            weights: weight and bias of each stage; None where it has none.
        """
        last = self.input
        last.value_t.copy_(x)
        for stage, weight, bias in zip(self.stages, weights[::2], weights[1::2], strict=False):
            before, curve = stage.before, stage.curve
            if weight is None:
                before.all.copy_(last.all)
            else:
                mm(weight, last.flat, out=before.flat)
                if bias is not None:
                    before.value_t.add_(bias)
            last = stage.after
            if curve is not None:
                curve.value(before.value, last.value, stage.slope, self.one)
                if curve.in_place:
                    last.tangents.mul_(stage.slope_all)
                else:
                    mul(before.tangents, stage.slope_all, out=last.tangents)
        if self.head:
            mm(weights[-2], last.right, out=self.flat)

    def pull(self, matrices: Sequence[Any]) -> None:
        """Carry the gradient of ``jacobian``, which is in ``adjoint``, backward to all stages; in inference mode.

        Args:
            matrices: the weight of each stage, without the biases.
        """
        # The values behind the last activation do not enter the Jacobian: their gradient is 0.
        if not self.head:
            self.top.value.zero_()
        elif self.stages:
            mm(self.top.flat_t, matrices[-1], out=self.stages[-1].adjoint.flat_t)
        for number, stage, below in self.backward:
            here, curve = stage.adjoint, stage.curve
            if curve is not None:
                if curve.bends:
                    q, (first, *others) = stage.q, stage.pairs
                    mul(*first, out=q)
                    for pair in others:
                        q.addcmul_(*pair)
                    here.all.mul_(stage.slope_all)
                    curve.bend(here.value, q, stage.before.value, stage.after.value, stage.slope)
                else:
                    here.all.mul_(stage.slope_all)
            if below is not None:
                matrix = matrices[number]
                if matrix is None:
                    below.all.copy_(here.all)
                else:
                    mm(here.flat_t, matrix, out=below.flat_t)

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
            found += (mm(self.top.right, last.right_t) if needed[len(found)] else None), None
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


class Loan:
    """A tape for as long as this object lives; then the next one of its kind may have it.

    Small ones on the CPU are kept, at most ``KEPT_KEYS * KEPT_EACH`` of ``KEPT_BYTES`` each. On other devices a
    tape could still be read by a stream when the object dies.
    """

    __slots__ = ("key", "tape")
    _free: ClassVar[OrderedDict[Key, list[Tape]]] = OrderedDict()  # each change to it is one step of the interpreter

    def __init__(self, x: Tensor, layout: Layout) -> None:
        self.key = key = x.shape, x.dtype, x.device, layout
        free = self._free.get(key)
        try:
            if free:
                self.tape = free.pop()
                return
        except IndexError:  # another thread took the last one
            pass
        check_input("x", x)  # what shape and type alone tell is checked with the first x of this kind
        self.tape = Tape(key)

    def __del__(self) -> None:
        if not hasattr(self, "tape") or not self.tape.kept:
            return
        free = self._free.get(self.key)
        if free is None:
            self._free[self.key] = [self.tape]
            while len(self._free) > KEPT_KEYS:
                self._free.popitem(last=False)
        elif len(free) < KEPT_EACH:
            free.append(self.tape)
