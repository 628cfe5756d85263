"""``ntk``: inner products of the outputs' gradients with respect to the parameters, for all pairs of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.kernels.blocks import all_pairs, by_products, equal_pairs
from nas.jac.kernels.survey import survey
from nas.jac.refuse import CHUNK_BYTES, Function, check_finite, check_input, guarded


def ntk(
    model: Function,
    x1: Tensor,
    x2: Tensor | None = None,
    output: str = "full",
    method: str = "auto",
    chunk_bytes: int = CHUNK_BYTES,
    statistics: str = "running",
) -> Tensor:
    """The empirical neural tangent kernel at the present parameters, ``K[a, b] = J(x1_a) J(x2_b)^T``.

    ``J(x)`` is the derivative of the ``M`` output entries of a sample by all parameters that require grad and that the
    output depends on (Jacot, Gabriel, Hongler 2018, arXiv:1806.07572).

    Args:
        model: module or plain function, ``(B, *in)`` to ``(B, *out)``. It is run several times, on parts of the batch.
        x1: ``(B1, *in)``, of a floating-point type.
        x2: ``(B2, *in)``, or None for ``x1``, which takes half the work and gives an exactly symmetric kernel.
        output: ``full``, all of ``K[a, b, m, n]``; ``trace``, ``sum_m K[a, b, m, m]``, not divided by ``M``; or
            ``sum``, ``sum_mn K[a, b, m, n]``, the kernel of the summed outputs, for one backward pass a batch.
        method: how; all give the same to rounding (Novak, Sohl-Dickstein, Schoenholz 2022, arXiv:2206.08720).
            ``layerwise`` or ``auto``: a run of the network on its tape, a backward pass for each output entry through
            activations only, and then for each Linear, convolution and norm what is fewer FLOPs, its Jacobian or the
            Grams of its activations and of its output gradients; parameters that are used otherwise (multiplied in, in
            attention or recurrent layers, in a layer whose rows are not samples in their order) go by ``contraction``.
            ``contraction``: the Jacobians of all parameters, vectorised over samples with ``torch.func``, or sample
            after sample where a parameter is out of its sight (used inside a ``torch.autograd.Function``, or before
            ``model``) or values are read into Python. ``products``: for each output entry of each sample of ``x2`` a
            backward pass, then a forward-mode pass for all of ``x1``; no Jacobian but the directions under way.
        chunk_bytes: budget in bytes for what is under way at once, kept by counting tensors; the result comes on top.
            A small budget costs time: what is not held is computed again.
        statistics: what BatchNorm normalises with. ``running``: its running statistics, in eval mode, so that the entry
            of two samples depends on no other. ``batch``: the batch's own, in training mode, another matrix, with
            ``output='sum'``, without ``x2`` and not by products: ``K[a, b] = <g_a, g_b>`` with ``g_a`` the gradient of
            ``sum_m f_m(X)_a`` through the whole batch ``X``, in ``B`` passes (Chen, Gong, Wang 2021, arXiv:2102.11535,
            over weights without biases). Running statistics and counters stay as they were, bit for bit.

    Returns:
        ``(B1, B2, M, M)`` for ``full``, a view of a matrix ``(B1 * M, B2 * M)`` that ``permute(0, 2, 1, 3).flatten(2)
        .flatten(0, 1)`` gives without copying; else ``(B1, B2)``. Without a tape, of the outputs' and parameters' type.

    Refuses, with a :class:`JacobianError`: BatchNorm in the other mode, dropout in training mode or other random
    numbers, samples that are mixed, an input that is empty, of integers or not finite, an output that is no batch, no
    parameter that requires grad, a kernel that is not finite, a budget too small for one output entry of one sample.
    """
    _check(x1, x2, output, method, statistics)
    batch = statistics == "batch"
    x1 = x1.detach()
    x2 = x1 if x2 is None else x2.detach()
    fn = guarded(model, x1, batch)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x1.device.type, enabled=False):
        if batch:
            fn = _of_whole_batch(fn)
            x1 = x2 = x1.unsqueeze(0)
        known = survey(fn, x1 if len(x1) > 1 else x2, layers=method in ("auto", "layerwise"))
        if output == "sum" and not batch:
            known.units = known.units.sum(0, keepdim=True)
        pairs = by_products if method == "products" else all_pairs
        kernel = pairs(fn, known, x1, x2, output == "trace", int(chunk_bytes))
    kernel = kernel.transpose(1, 2) if output == "full" else kernel.flatten(2).flatten(0, 1)
    check_finite("kernel", kernel, "it", "see where the network or its gradients overflow, and for which sample")
    return kernel


def paired_gram(model: Function, x1: Tensor, x2: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """``J(x1_b) J(x2_b)^T`` by the parameters, ``(B, M, M)``: the blocks of equal samples, of checked inputs."""
    same, x1, x2 = x2 is x1, x1.detach(), x2.detach()
    fn = guarded(model, x1)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x1.device.type, enabled=False):
        known = survey(fn, x1)
        return equal_pairs(fn, known, x1, x1 if same else x2, chunk_bytes)


def _of_whole_batch(fn: Function) -> Function:
    """``fn`` with a batch as its one sample, ``(1, B, *in)`` to sums of outputs ``(1, B)``, whatever couples them."""
    return lambda x: fn(x[0]).sum(1).unsqueeze(0)


def _check(x1: Tensor, x2: Tensor | None, output: str, method: str, statistics: str) -> None:
    for name, value, *choices in (
        ("output", output, "full", "trace", "sum"),
        ("method", method, "auto", "layerwise", "contraction", "products"),
        ("statistics", statistics, "running", "batch"),
    ):
        if value not in choices:
            raise JacobianError(name, value, f"must be one of {', '.join(choices)}", f"use {name}='{choices[0]}'")
    if statistics == "batch" and output != "sum":
        rule = "is not defined with statistics='batch': there an output depends on all samples, and sums are compared"
        raise JacobianError("output", output, rule, "use output='sum', or statistics='running'")
    if statistics == "batch" and x2 is not None:
        rule = "cannot be given with statistics='batch': the kernel is that of one batch, which normalises itself"
        raise JacobianError("x2", tuple(x2.shape), rule, "pass one batch, or use statistics='running'")
    if statistics == "batch" and method == "products":
        rule = "is not offered with statistics='batch': torch.func refuses a BatchNorm that counts its batches"
        raise JacobianError("method", method, rule, "use method='layerwise'")
    check_input("x1", x1)
    if x2 is None:
        return
    check_input("x2", x2)
    for what in ("dtype", "device"):
        one, two = getattr(x1, what), getattr(x2, what)
        if one != two:
            raise JacobianError("x1, x2", f"{one}, {two}", f"must have the same {what}", "pass x2.to(x1)")
    if x1.shape[1:] != x2.shape[1:]:
        both = f"{tuple(x1.shape)}, {tuple(x2.shape)}"
        raise JacobianError("x1, x2", both, "must be batches of samples of one shape", "pass (B2, *x1.shape[1:])")
