"""A Jacobian as one compiled function of the input, for calls that have to be interactive."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from nas.jac.errors import JacobianError
from nas.jac.jacobian import factorise
from nas.jac.refuse import check_finite, check_input


def compiled(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """``jacobian(model, .)`` for inputs of the shape of ``x``, recorded once and compiled by Inductor.

    What ``mode="layerwise"`` computes for ``x`` is recorded as a graph of tensor operations, which Inductor, the
    compiler behind ``torch.compile``, turns into a few kernels; that takes seconds, and a C++ compiler on a CPU.
    The graph holds on to the parameters and buffers themselves: changes in place, as optimizers make them, count.
    After a change of mode, or of a module or parameter for another one, compile again.

    Refuses, with a :class:`JacobianError`: what :func:`~nas.jac.jacobian.jacobian` in mode ``layerwise`` refuses.

    Source: Ansel et al., *PyTorch 2* (ASPLOS 2024).

    Args:
        model: module or function, ``(B, *in)`` to ``(B, *out)``.
        x: ``(B, *in)``, of the shape, dtype and device of the inputs to come.

    Returns:
        A function of ``(B, *in)`` that gives ``(B, *out, *in)``.
    """
    from torch._inductor import compile as inductor  # half a second that nobody else should wait for

    check_input("x", x)
    x = x.detach().contiguous()  # the compiled code takes strides as given
    with torch.no_grad():
        graph = make_fx(lambda inputs: _dense(model, inputs))(x)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        # Straight to Inductor: the inputs' kind is checked below, and torch.compile's guards would double the time.
        fast = inductor(graph, [x])
    kind = (x.shape, x.dtype, x.device)

    def call(x: Tensor) -> Tensor:
        check_input("x", x)
        if (x.shape, x.dtype, x.device) != kind:
            rule = f"was compiled for {tuple(kind[0])}, {kind[1]}, {kind[2]}"
            found = f"{tuple(x.shape)}, {x.dtype}, {x.device}"
            raise JacobianError("x", found, rule, "call compiled(model, x) once for each kind of input")
        with torch.no_grad():
            result: Tensor = fast(x.contiguous())
        check_finite("jacobian", result, "the Jacobian", "look for infinite slopes, such as sqrt at 0, and weights")
        return result

    return call


def _dense(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobian with any budget, and without a look at the numbers, which a recording cannot take."""
    graph = factorise(model, x)
    whole, _ = graph.multiplied(None)
    return whole.expand(len(x), -1, -1).reshape(len(x), *graph.stop.shape, *graph.start.shape)
