"""A module's forward and backward pass, recorded together and compiled by Inductor, with nothing around them.

``torch.compile`` checks at each call, forwards and backwards, what may have changed, for 0.14 ms a module: as long as a
small branch takes. Whoever knows what cannot change calls what is made here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

Call = Callable[..., Tensor]


OPTIONS: dict[str, Any] = {}
"""For Inductor: the place to switch on ``triton.cudagraphs``."""


def recorded(module: nn.Module, x: Tensor) -> Call:
    """``module`` as a function of ``(*parameters, x, *buffers)`` that can be differentiated once.

    It updates the buffers in place, as ``module`` does, and holds for all tensors of the shapes, strides, dtypes,
    devices and ``requires_grad`` of those that it is recorded with, and for modules built, in modes and under autocast
    like this one. Gradients have the strides of the parameters.

    Source: Ansel et al., *PyTorch 2* (ASPLOS 2024).

    Args:
        module: takes ``x`` and gives one tensor.
        x: the input.

    Raises:
        RuntimeError: it cannot be recorded or compiled, or draws random numbers, for which Inductor would draw others.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it tells that there is no GPU
    import torch._inductor.lowering  # which the decompositions need
    from torch._guards import TracingContext, tracing
    from torch._inductor import compile as inductor
    from torch._inductor import config
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    primals = [*module.parameters(), x, *module.buffers()]
    differentiable = [i for i, tensor in enumerate(primals) if tensor.requires_grad]
    first_buffer = len(primals) - len(list(module.buffers()))
    fake_mode = FakeTensorMode(shape_env=ShapeEnv())
    # The context is where Inductor looks for what it needs to keep code on disk.
    with config.patch(OPTIONS), tracing(TracingContext(fake_mode)):
        forward, backward, changed, y = _record(module, primals, differentiable, fake_mode)
        with torch.no_grad():
            run, run_backward = (inductor(graph, _inputs(graph)) for graph in (forward, backward))
    size, stride, dtype, device = y.shape, y.stride(), y.dtype, y.device
    casts = torch.is_autocast_enabled(device.type)
    buffers, outputs = [first_buffer + i for i in changed], 1 + len(changed)

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *primals: Tensor) -> Tensor:
            with torch.autocast(device.type, enabled=False) if casts else nullcontext():  # the casts are recorded
                y, *rest = run(*primals)
            ctx.save_for_backward(*rest[outputs - 1 :])
            if buffers:
                torch._foreach_copy_([primals[i] for i in buffers], rest[: outputs - 1])
            return y

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            if gradient.stride() != stride:
                gradient = torch.empty_strided(size, stride, dtype=dtype, device=device).copy_(gradient)
            found: list[Tensor | None] = [None] * len(primals)
            for i, value in zip(differentiable, run_backward(*ctx.saved_tensors, gradient), strict=True):
                found[i] = value
            return tuple(found)

    return Recorded.apply


def _record(
    module: nn.Module, primals: Sequence[Tensor], differentiable: Sequence[int], fake_mode: Any
) -> tuple[fx.GraphModule, fx.GraphModule, list[int], Tensor]:
    """The graphs of both passes, which buffers the first one gives new values for, and what its output is like."""
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.multiprocessing.reductions import StorageWeakRef

    names, buffers = [name for name, _ in module.named_parameters()], [name for name, _ in module.named_buffers()]

    def pass_forward(primals: Sequence[Tensor]) -> list[Tensor]:
        copies = [buffer.clone() for buffer in primals[len(names) + 1 :]]  # whose changes are outputs
        tensors = dict(zip(names, primals, strict=False)) | dict(zip(buffers, copies, strict=True))
        y = torch.func.functional_call(module, tensors, (primals[len(names)],))
        if not isinstance(y, Tensor):
            raise RuntimeError(f"it gives a {type(y).__name__}, not a tensor")
        return [y, *copies]

    def both(primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
        with torch.enable_grad():
            outputs = pass_forward(primals)
        with torch.autocast(outputs[0].device.type, enabled=False):
            gradients = torch.autograd.grad(outputs[:1], [primals[i] for i in differentiable], tangents)
            return [*outputs, *(map(_laid_out, gradients, [primals[i] for i in differentiable]))]

    fake = [fake_mode.from_tensor(t.detach(), static_shapes=True).requires_grad_(t.requires_grad) for t in primals]
    with fake_mode:
        y = pass_forward(fake)[0]
        if StorageWeakRef(y.untyped_storage()) in {StorageWeakRef(tensor.untyped_storage()) for tensor in fake}:
            raise RuntimeError("it gives what it gets, or a view of it")
        y = y.detach()
        joint = make_fx(both)(fake, [y])
    with fake_mode, torch.no_grad():  # once more, without writing in place
        inputs = [tensor.detach() for tensor in fake], [y]
        functional = torch.func.functionalize(lambda primals, tangents: joint(primals, tangents), remove="mutations")
        joint = make_fx(functional, decomposition_table=select_decomp_table())(*inputs)
    if any(torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in joint.graph.nodes):
        raise RuntimeError("it draws random numbers")  # Inductor would draw others
    joint.graph.eliminate_dead_code()
    _keep_masks_out(joint.graph)
    (output,) = joint.graph.find_nodes(op="output")
    (first, *values), gradients = output.args[0][: 1 + len(buffers)], output.args[0][1 + len(buffers) :]
    changed = [i for i, node in enumerate(values) if node.target is not torch.ops.aten.clone.default]
    output.args = ([first, *(values[i] for i in changed), *gradients],)
    joint.recompile()
    partition = min_cut_rematerialization_partition(joint, [*inputs[0], y], num_fwd_outputs=1 + len(changed))
    return *partition, changed, y


def _laid_out(gradient: Tensor, like: Tensor) -> Tensor:
    """With the strides of what it is the gradient of; otherwise somebody would copy it."""
    if gradient.stride() == like.stride():
        return gradient
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device).copy_(gradient)


def _inputs(graph: fx.GraphModule) -> list[Any]:
    return [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]


def _keep_masks_out(graph: fx.Graph) -> None:
    """Let the masks of ReLUs be found again in the backward pass, from the output, which what follows keeps anyway.

    They would be saved as booleans, which Inductor's C++ writes and reads one by one: ten times as long as the rest.
    """
    from torch.utils.checkpoint import CheckpointPolicy

    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.le.Scalar):
        node.meta["recompute"] = CheckpointPolicy.PREFER_RECOMPUTE
