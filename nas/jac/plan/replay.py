"""The plan of a Jacobian: the steps of the call that recorded it, replayed in the same memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from nas.jac.plan.guard import REPLAYED, Guard, guard, is_plain
from nas.jac.plan.order import CACHED, LinearGraph, product_is_finite
from nas.jac.plan.steps import noting
from nas.jac.plan.store import Plan, give, take
from nas.jac.refuse import SLOPES, WEIGHTS, check_finite, check_input


class JacobianPlan(Plan):
    """What ``jacobian`` computes for one model at any ``x`` like the one that was recorded.

    ``x`` and ``y`` are the memory of the input and the output, ``shape`` is that of the Jacobian.
    """

    def __init__(self, kept: Guard, x: Tensor, y: Tensor, steps: list[partial], shape: torch.Size) -> None:
        *steps, last = steps
        self.x, self.y, self.ends = x, y, x.new_empty(x.numel() + y.numel())
        self.steps = [*steps, partial(torch.cat, [x.view(-1), y.view(-1)], out=self.ends)]  # for one sum of both
        super().__init__(kept, x.nbytes + sum(result_of(step).nbytes for step in self.steps))
        keywords = {name: value for name, value in last.keywords.items() if name != "out"}
        self.last: Callable[[], Tensor] = partial(last.func, *last.args, **keywords)  # into the caller's own memory
        self.factors = last.args if last.func is torch.mm and last.args[0].numel() > CACHED else None
        self.shape = tuple(shape) if result_of(last).shape != shape else None  # a torch.Size takes longer to be read

    def replay(self, x: Tensor) -> Tensor:
        """The Jacobian at ``x``."""
        self.x.copy_(x.detach() if x.requires_grad else x)
        for step in self.steps:
            step()
        whole = self.last()
        if self.shape is not None:
            whole = whole.view(*self.shape)
        # Written out: calls of functions that rarely have anything to say would take a tenth of a small Jacobian.
        if not isfinite(self.ends.sum().item()):
            check_input("x", x)
            check_finite("jacobian", whole, "the Jacobian", SLOPES)
            check_finite("output", self.y, "the output", WEIGHTS)
        if not (isfinite(whole.sum().item()) if self.factors is None else product_is_finite(*self.factors)):
            check_finite("jacobian", whole, "the Jacobian", SLOPES)
        return whole


def result_of(step: partial) -> Tensor:
    """The memory that a step writes into: that of ``out=``, or its own if it is a method that works in place."""
    result: Tensor = step.keywords["out"] if step.keywords else step.func.__self__  # type: ignore[attr-defined]
    return result


def kind_of(model: object, x: Tensor, chunk_bytes: int) -> tuple[Any, ...] | None:
    """What a plan for this call is kept under; None where calls have to be computed as they come."""
    if type(model) not in REPLAYED or not is_plain(x):
        return None
    return x.shape, x.dtype, x.device, chunk_bytes, torch.is_inference_mode_enabled()


def replayed(model: Any, x: Tensor, kind: tuple[Any, ...]) -> Tensor | None:
    """The Jacobian by the plan of an earlier call; None where there is none that holds."""
    plan = take(model, kind)
    if plan is None:
        return None
    whole: Tensor = plan.replay(x)
    give(model, kind, plan)
    return whole


def recorded(
    model: Any, x: Tensor, kind: tuple[Any, ...], run: Callable[[Tensor], LinearGraph], chunk_bytes: int
) -> Tensor:
    """The Jacobian of what ``run`` records, and a plan for the next call if what is done makes one."""
    kept = guard(model, REPLAYED) if x.numel() <= CACHED and Plan.limit else None  # calls are little against more
    if kept is None:
        return run(x.detach()).dense(chunk_bytes)
    at = x.detach().clone(memory_format=torch.contiguous_format)
    with noting() as steps:
        graph = run(at)
        whole = graph.dense(chunk_bytes)
    if steps and steps[-1].keywords and result_of(steps[-1]).data_ptr() == whole.data_ptr():
        give(model, kind, JacobianPlan(kept, at, graph.stop.value, steps, whole.shape))
    return whole
