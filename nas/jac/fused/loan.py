"""Tapes that are used again."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor

from nas.jac.fused.tape import Key, Layout, Tape, sample_bytes
from nas.jac.refuse import check_input

KEPT_BYTES, KEPT_KINDS, KEPT_EACH = 2**26, 8, 2
"""How much memory tapes may take while nobody uses them, counting one of each kind, of how many kinds there may be
some, and how many of each."""


class Loan:
    """A tape for as long as this object lives; then the next one of its kind may have it.

    Kept on the CPU alone: on other devices a stream could still be reading a tape when the object dies.

    Refuses, with a :class:`~nas.jac.errors.JacobianError`: an ``x`` that is empty or not of a floating-point type.

    Args:
        x: ``(B, N)``.
        layout: of the chain.
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
        if not hasattr(self, "tape"):  # refused
            return
        free = self._free.get(self.key)
        if free is None:
            if self.key[2].type != "cpu" or _bytes(self.key) > KEPT_BYTES:
                return
            self._free[self.key] = [self.tape]
            while len(self._free) > KEPT_KINDS or sum(map(_bytes, list(self._free))) > KEPT_BYTES:
                self._free.popitem(last=False)
        elif len(free) < KEPT_EACH:
            free.append(self.tape)


def _bytes(key: Key) -> int:
    (batch, n), dtype, _, layout = key
    return batch * sample_bytes(layout, n, dtype.itemsize)
