"""``jacobian``: the derivative of every output of every sample by every input of that sample."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from nas.jac.errors import BudgetError, JacobianError, NoRuleError
from nas.jac.factored import FactoredJacobian
from nas.jac.plan import autodiff, elementwise, layers, shapes
from nas.jac.plan.order import LinearGraph, in_parts
from nas.jac.plan.replay import kind_of, recorded, replayed
from nas.jac.plan.trace import NO_RULE, Node, apply, no_rule
from nas.jac.refuse import (
    CHUNK_BYTES,
    Function,
    check_callable,
    check_input,
    check_modes,
    check_output,
    modules_at,
    undo_count,
)

LAYERWISE = ("auto", "layerwise")
Yes = Literal[True]
No = Literal[False]
MODES = ("auto", "forward", "reverse", "layerwise")
assert all((elementwise, layers, shapes))  # importing them fills the table of rules


@overload
def jacobian(
    model: Function, x: Tensor, mode: str = ..., chunk_bytes: int = ..., create_graph: bool = ..., factored: No = ...
) -> Tensor: ...
@overload
def jacobian(
    model: Function, x: Tensor, mode: str = ..., chunk_bytes: int = ..., create_graph: bool = ..., *, factored: Yes
) -> FactoredJacobian: ...
def jacobian(
    model: Function,
    x: Tensor,
    mode: str = "auto",
    chunk_bytes: int = CHUNK_BYTES,
    create_graph: bool = False,
    factored: bool = False,
) -> Tensor | FactoredJacobian:
    """The Jacobian of each sample: ``J[b, o, i] = d model(x)[b, o] / d x[b, i]``.

    - ``layerwise``: the network runs once and leaves its operations' derivatives, which are multiplied from the
      narrowest value outwards. For operations with a rule in ``nas.jac.plan``; any other is an error that names it.
    - ``reverse``: one backward pass an output. ``forward``: one forward-mode pass an input, where torch has them.
    - ``auto``: ``layerwise`` if every operation has a rule, else ``reverse``, or ``forward`` if there are fewer
      inputs than outputs and no tape is asked for.

    Refuses, with a :class:`JacobianError`: BatchNorm or dropout in training mode and samples that are mixed otherwise,
    an ``x`` that is empty, of integers or not finite, an output that is no batch, a Jacobian that is not finite, a
    budget too small for one direction of one sample.

    Source: Griewank and Walther, *Evaluating Derivatives* (2008), chapters 3 and 10.

    Args:
        model: module or function, ``(B, *in)`` to ``(B, *out)``.
        x: ``(B, *in)``, of a floating-point type.
        mode: how; all give the same to rounding.
        chunk_bytes: budget in bytes for the directions under way at once, besides the result and a forward pass.
        create_graph: keep a tape, so that the result can be differentiated by parameters and by ``x``.
        factored: give the unexpanded object instead (layerwise only).

    Returns:
        ``(B, *out, *in)``, or a :class:`FactoredJacobian` of that shape.

    Raises:
        JacobianError: ``mode`` is none of the four, or ``factored`` with ``forward`` or ``reverse``.
        NoRuleError: in mode ``layerwise``, the model does what has no rule.
        RuntimeError: the model's own.
    """
    layerwise = mode in LAYERWISE
    kind = kind_of(model, x, chunk_bytes) if layerwise and not (create_graph or factored) else None
    if kind is not None:
        found = replayed(model, x, kind)
        if found is not None:
            return found
    if mode not in MODES:
        raise JacobianError("mode", mode, f"must be one of {', '.join(MODES)}", "use mode='auto'")
    if factored and not layerwise:
        raise JacobianError("factored", factored, f"is not offered by mode='{mode}'", "use mode='layerwise'")
    check_input("x", x)
    chunk_bytes = int(chunk_bytes)
    if create_graph and torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            return jacobian(model, x.clone(), mode, chunk_bytes, True, factored=factored)  # type: ignore[call-overload]
    if layerwise:
        try:
            with torch.set_grad_enabled(create_graph):
                if factored:
                    return FactoredJacobian(factorise(model, x if create_graph else x.detach()))
                if kind is not None:
                    try:
                        return recorded(model, x, kind, lambda at: factorise(model, at), chunk_bytes)
                    except BudgetError:
                        pass  # of the whole batch; a part may do
                at = x if create_graph else x.detach()
                return in_parts(lambda part: factorise(model, part).dense(chunk_bytes), at)
        except NoRuleError:
            if mode == "layerwise" or factored:
                raise
    try:
        return autodiff.by_autodiff(model, x, mode, chunk_bytes, create_graph)
    except RuntimeError as error:
        if mode != "forward":
            raise
        rule = f"met what torch has no forward derivative for ({str(error).splitlines()[0]})"
        raise JacobianError("mode", mode, rule, "use mode='reverse'") from error


def factorise(model: Function, x: Tensor, joined: bool = False) -> LinearGraph:
    """Run ``model`` once on a checked ``x``, of one batch or several ``joined``; with a tape in grad mode."""
    check_callable(model)
    start = Node(x)
    try:
        stop = apply(model, start, joined)
    except NoRuleError as error:
        raise _named(error, model) from None
    except JacobianError as error:
        undo_count(error)
        check_modes(model)  # it knows modules by name
        raise
    except RuntimeError as error:
        if NO_RULE not in str(error):
            raise
        raise no_rule("a TorchScript function") from None  # its interpreter wraps what is raised inside
    check_output(stop.value, x.shape[0])
    return LinearGraph(start, stop)


def _named(error: NoRuleError, model: object) -> NoRuleError:
    """The same error, with the innermost module of ``model`` that was running as its key."""
    if not isinstance(model, nn.Module):
        return error
    names = {id(module): name for name, module in model.named_modules() if name}
    running = [names[id(module)] for module in modules_at(error) if id(module) in names]
    return NoRuleError(running[-1], error.value, error.rule, error.remedy) if running else error
