"""Functions whose gradient is written by hand: the Jacobian of a chain, or its determinant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from nas.jac.errors import JacobianError
from nas.jac.fused.chain import read_chain
from nas.jac.fused.tape import Tape, sample_bytes
from nas.jac.plan.guard import guard, is_plain
from nas.jac.plan.store import give, take
from nas.jac.refuse import CHUNK_BYTES, check_input, check_square

CLOSED_FORM = 3
"""Up to this size a determinant is computed from cofactors."""


def replay(model: object, x: Tensor, det: bool) -> Tensor | None:
    """The Jacobian of a chain ``(B, N, N)``; if ``det``, and N is at most ``CLOSED_FORM``, its determinant ``(B,)``.

    None if ``model`` is no chain, or something changes how it runs: torch.func, autocast, a compiler, hooks.
    """
    if type(model) is not nn.Sequential or not is_plain(x):
        return None
    key = det, x.shape, x.dtype, x.device
    tape = take(model, key)
    if tape is None or any(tape.hooks):
        kept, chain = guard(model), read_chain(model, x)
        if kept is None or chain is None:
            return None
        check_square(chain[-1][1], x.shape[1])
        check_input("x", x)
        at_once = max(1, CHUNK_BYTES // sample_bytes(chain, x))
        if at_once < len(x) and not torch.is_grad_enabled():  # there is no tape to keep
            return torch.cat([replay(model, part, det) for part in x.split(at_once)])  # type: ignore[misc]
        tape = Tape(model, kept, chain, x, key, det and x.shape[1] <= CLOSED_FORM)
    result: Tensor = Derived.apply(tape, Lease(tape), x, *tape.weights)
    return result


class Lease:
    """Of a tape: once nobody is left who may ask for gradients, the next call of its kind may have the tape."""

    __slots__ = ("tape",)

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    def __del__(self) -> None:
        tape, model = self.tape, self.tape.model()
        if model is not None and tape.device == "cpu":  # on others a stream could still be reading it
            give(model, tape.key, tape)


class Derived(Function):
    """``(computed, lease, x, *weights)`` to ``computed.run(x)``, with the gradients of ``computed.pull``.

    What ``pull`` reads, ``computed.read(x)``, must not change before; the lease ends with the graph.
    """

    @staticmethod
    def forward(ctx: Any, computed: Any, lease: Lease | None, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.computed, ctx.lease, ctx.inputs = computed, lease, (x, *weights)
        ctx.save_for_backward(*computed.read(x))
        result: Tensor = computed.run(x)
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        _ = ctx.saved_tensors  # torch refuses those that have been changed in place
        arguments = ctx.inputs[0], g, ctx.needs_input_grad
        if not torch.is_grad_enabled():
            return tuple(ctx.computed.pull(*arguments))
        with torch.no_grad():
            gradients = ctx.computed.pull(*arguments)
        return FirstOnly.apply(ctx.computed.second, len(gradients), g, *ctx.inputs, *gradients)


class FirstOnly(Function):
    """``(why, count, *inputs, *gradients)`` to ``gradients``, the last ``count``, which have none of their own."""

    @staticmethod
    def forward(ctx: Any, why: tuple, count: int, *tensors: Tensor | None) -> tuple:
        ctx.why = why
        return tuple(None if t is None else t.clone() for t in tensors[-count:])

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple:
        key, value, rule, remedy = ctx.why
        raise JacobianError(key, value, f"{rule}, and a second one was asked for", remedy)
