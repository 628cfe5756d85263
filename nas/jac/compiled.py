"""Jacobians and their determinants as compiled functions of the input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from nas.jac.determinant import jacobian_det
from nas.jac.errors import JacobianError
from nas.jac.fused.compiled import Determinant, Original
from nas.jac.jacobian import factorise, jacobian
from nas.jac.refuse import check_input

_OPTIONS = {"cpp_wrapper": True, "size_asserts": False, "alignment_asserts": False}


def compiled(model: Callable[[Tensor], Tensor], x: Tensor, of: str = "jacobian") -> Callable[[Tensor], Tensor]:
    """``jacobian(model, .)`` or ``jacobian_det(model, .)`` for inputs such as ``x``, compiled once, in seconds.

    The Jacobian is that of ``mode="layerwise"``, compiled by Inductor; it carries no gradient. The determinant is C++
    in one thread, to be differentiated once, by the parameters and by ``x``, of an ``nn.Sequential`` of ``nn.Linear``
    and activations (ELU, GELU, LeakyReLU, ReLU, SiLU, Sigmoid, Softplus, Softsign, Tanh) with up to 3 inputs and 16
    features, in float32 or float64 on a CPU.

    Both read the parameters themselves: changes in place, as optimizers make them, count; other modules or parameters
    are refused. After a change of mode, hooks or an activation's settings, compile again. A CPU needs a C++ compiler.

    Refuses, with a :class:`JacobianError`, here or when it is called, what ``jacobian`` in mode ``layerwise`` or
    ``jacobian_det`` refuses; for a determinant, other networks.

    Source: Ansel et al., *PyTorch 2* (ASPLOS 2024); Griewank and Walther, *Evaluating Derivatives* (2008), chapter 3.

    Args:
        model: module or function, ``(B, *in)`` to ``(B, *out)``.
        x: ``(B, *in)``, of the shape, dtype and device of the inputs to come; for a determinant, B may differ.
        of: ``jacobian`` or ``determinant``.

    Returns:
        A function of ``(B, *in)`` that gives ``(B, *out, *in)``, or ``(B,)``.

    Raises:
        JacobianError: ``of`` is neither.
    """
    check_input("x", x)
    if of == "determinant":
        with torch.no_grad():
            jacobian_det(model, x)  # refuses what it refuses
        return Determinant(model, x)
    if of != "jacobian":
        raise JacobianError("of", of, "must be jacobian or determinant", "use of='jacobian'")
    return _jacobian(model, x.detach().contiguous())  # the compiled code takes strides as given


def _jacobian(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner  # half a second: only who needs it waits

    def recorded(inputs: Tensor) -> tuple[Tensor, Tensor]:
        linear = factorise(model, inputs)
        rows, first = linear.factors()
        whole = (first.vjp(rows) if first else rows).expand(len(inputs), -1, -1)
        whole = whole.reshape(len(inputs), *linear.stop.shape, *linear.start.shape).clone()  # no view of a weight
        return whole, inputs.sum() + linear.stop.value.sum() + whole.sum()  # finite only if all of them are

    codes: list[Any] = []

    def inner(*args: Any, **options: Any) -> Any:
        codes.append(compile_fx_inner(*args, **options))
        return codes[-1]

    with torch.no_grad():
        graph = make_fx(recorded)(x)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        # The checks and wrappers that torch.compile puts around its code would take as long as what it computes.
        compile_fx(graph, [x], inner_compile=inner, config_patches=_OPTIONS if x.device.type == "cpu" else {})
    fast = codes[-1].current_callable  # of parameters, buffers and x, in this order
    original = Original(model, [*graph.parameters(), *graph.buffers()], x, 0)

    def call(x: Tensor) -> Tensor:
        original.check(x)
        result, total = fast([*original.memory, x.detach().contiguous()])
        if math.isfinite(total.item()):
            return result
        return jacobian(model, x.detach(), mode="layerwise")  # says what is not finite, if it is not only the sum

    return call
