"""The Jacobian of a chain, or its determinant, differentiated by hand."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from nas.jac.errors import JacobianError
from nas.jac.fused.chain import read_chain
from nas.jac.fused.tape import Tape, sample_bytes
from nas.jac.plan.guard import guard
from nas.jac.plan.store import give, take
from nas.jac.refuse import CHUNK_BYTES, WEIGHTS, check_finite, check_input, check_square

is_compiling = torch.compiler.is_compiling
transforms_active = torch._C._are_functorch_transforms_active  # torch has no public name for it
version = attrgetter("_version")
CLOSED_FORM = 3
"""Up to this size a determinant is computed from cofactors."""


def replay(model: object, x: Tensor, det: bool) -> Tensor | None:
    """The Jacobian of a chain ``(B, N, N)``; if ``det``, and N is at most ``CLOSED_FORM``, its determinant ``(B,)``.

    None if ``model`` is no chain, or something changes how it runs: torch.func, autocast, a compiler, hooks.
    """
    if type(model) is not nn.Sequential or type(x) is not Tensor or is_compiling() or transforms_active():
        return None
    if torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type):
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
    result: Tensor = apply(Held(tape, x), x, *tape.weights)
    return result


class Held:
    """A tape and its input, for as long as this lives; then the next call of its kind may have the tape."""

    __slots__ = ("tape", "version", "x")

    def __init__(self, tape: Tape, x: Tensor) -> None:
        self.tape, self.x = tape, x
        self.version = sum(map(version, tape.matrices)) if torch.is_grad_enabled() else 0

    def __del__(self) -> None:
        tape, model = self.tape, self.tape.model()
        if model is not None and tape.device == "cpu":  # on others a stream could still be reading it
            give(model, tape.key, tape)


class Replay(Function):
    """``(held, x, *weights)`` to what the tape is made for; an ``x`` or a result that is not finite is refused."""

    @staticmethod
    def forward(ctx: Any, held: Held, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.held, tape = held, held.tape
        tape.input.copy_(x)
        for step in tape.forward:
            step()
        result = tape.result()
        if not math.isfinite(tape.check().item()):
            check_input("x", x)
            if result.dim() == 1:
                check_finite("det", result, "the determinant", f"{WEIGHTS}, or use slogdet")
            check_finite("jacobian", result, "the Jacobian", WEIGHTS)
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        held: Held = ctx.held
        tape = held.tape
        if sum(map(version, tape.matrices)) != held.version:
            raise RuntimeError("a weight has been modified by an inplace operation before the backward pass")
        if not torch.is_grad_enabled():
            return None, *tape.pull(g, ctx.needs_input_grad)
        with torch.no_grad():
            gradients = tape.pull(g, ctx.needs_input_grad)
        return None, *FirstOnly.apply(len(gradients), g, held.x, *tape.weights, *gradients)


class FirstOnly(Function):
    """``(count, *inputs, *gradients)`` to ``gradients``, the last ``count`` of all; it cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple:
        return tuple(None if t is None else t.clone() for t in tensors[-count:])

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple:
        rule = "gives first derivatives only, and a second one was asked for"
        raise JacobianError("fused", True, rule, "pass fused=False to jacobian_det or slogdet")


apply = Replay.apply
