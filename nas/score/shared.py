"""The proxies that share passes: one forward and one backward pass over the first batch serve all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.errors import ScoreError
from nas.score import formulas
from nas.score.proxies import missing
from nas.score.watch import Rectifiers, Watch

OF_LOSS = ("snip", "grasp", "grad_norm", "fisher", "zico")
OF_LAYERS = (*OF_LOSS, "l2_norm")
SHARED = ("jacob_cov", "naswot", "ntk_condition", *OF_LAYERS)
"""Proxies that need the first batch to pass through the network."""
KERNEL_BYTES = 2**29
"""Memory for the gradients of all images; what does not fit is computed in parts, each in its own round of passes."""

Batch = tuple[Tensor, Tensor]


def of_batches(net: nn.Module, wanted: Sequence[str], batches: Sequence[Batch]) -> dict[str, float]:
    """Compute those of the ``SHARED`` proxies that are wanted.

    The forward pass of the first batch serves all of them; the backward pass of the loss serves ``snip``,
    ``grad_norm``, ``fisher``, ``zico`` and, kept differentiable, ``grasp``. Further passes: a backward pass of the
    summed outputs to the images for ``jacob_cov``, one for each image for ``ntk_condition``, a second derivative for
    ``grasp``, and a forward and backward pass for each further batch of ``zico``.

    BatchNorm uses the batch's statistics everywhere; a 2-D convolution or Linear counts as a layer whether a module
    or a function computes it.

    Args:
        net: a private network in eval mode; all its parameters require grad.
        wanted: names, at least one.
        batches: ``(x, labels)``; only ``zico`` sees more than the first.

    Raises:
        ScoreError: the network has no ReLU or no layer, or does not give logits; ``zico`` has one batch.
    """
    asked, values = set(wanted), {}
    x, labels = (tensor.detach().clone() for tensor in batches[0])
    x.requires_grad_("jacob_cov" in asked)
    layers = Watch(wanted[0], net.parameters(), apart="fisher" in asked)
    rectifiers = Rectifiers(len(x))
    graph = torch.set_grad_enabled(bool(asked - {"naswot", "l2_norm"}))
    with graph, rectifiers if "naswot" in asked else nullcontext(), layers:
        y = _logits(net, x, wanted[0])
    weights = _weights(net, layers)
    for name in OF_LAYERS:
        if name in asked and not weights:
            raise missing(name, "a 2-D convolution or a Linear")
    if "naswot" in asked:
        if not rectifiers.seen:
            raise missing("naswot", "a ReLU")
        values["naswot"] = formulas.naswot(rectifiers.agreements)
    if "l2_norm" in asked:
        values["l2_norm"] = formulas.norms([weight.detach() for weight in weights])
    if "jacob_cov" in asked:
        values["jacob_cov"] = formulas.jacob_cov(_gradients_of(y.sum(), [x])[0].flatten(1))
    if "ntk_condition" in asked:
        values["ntk_condition"] = formulas.condition(_kernel(net, y), torch.finfo(y.dtype).eps)
    if asked & set(OF_LOSS):
        values |= _of_loss(net, asked, F.cross_entropy(y, labels), layers, weights, batches[1:])
    return values


def _of_loss(
    net: nn.Module, asked: set[str], loss: Tensor, layers: Watch, weights: list[Tensor], others: Sequence[Batch]
) -> dict[str, float]:
    values, twice = {}, "grasp" in asked
    outs = [call.out for call in layers.calls] if "fisher" in asked else []
    found = torch.autograd.grad(loss, [*weights, *outs], create_graph=twice, allow_unused=True)
    first, of_outs = found[: len(weights)], found[len(weights) :]
    gradients = [g if g is None else g.detach() for g in first]
    plain = [weight.detach() for weight in weights]
    if "fisher" in asked:
        values["fisher"] = formulas.fisher(layers.calls, [g if g is None else g.detach() for g in of_outs])
    if "snip" in asked:
        values["snip"] = formulas.snip(plain, gradients)
    if "grad_norm" in asked:
        values["grad_norm"] = formulas.norms(gradients)
    if twice:
        pairs = zip(first, gradients, strict=True)
        square = torch.stack([(g * fixed).sum() for g, fixed in pairs if g is not None and fixed is not None]).sum()
        products = torch.autograd.grad(square, weights, allow_unused=True)
        values["grasp"] = formulas.grasp(plain, products)
    if "zico" in asked:
        del found, first, loss  # and with them the graph
        all_batches = [gradients, *(_gradients(net, batch, weights) for batch in others)]
        if len(all_batches) < 2:
            rule = "needs at least 2 batches: it is about how gradients deviate"
            raise ScoreError("proxies", "zico", rule, "give batches=2")
        values["zico"] = formulas.zico(all_batches)
    return values


def _gradients(net: nn.Module, batch: Batch, weights: list[Tensor]) -> tuple[Tensor | None, ...]:
    x, labels = batch
    with Watch("zico"):
        loss = F.cross_entropy(_logits(net, x, "zico"), labels.clone())
    return torch.autograd.grad(loss, weights, allow_unused=True)


def _logits(net: nn.Module, x: Tensor, proxy: str) -> Tensor:
    y = net(x.clone())  # a network may work in place on its input
    if not isinstance(y, Tensor) or y.dim() != 2 or len(y) != len(x):
        what = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        rule = f"needs logits (B, classes), and the network gives {what} for {len(x)} images"
        raise ScoreError("proxies", proxy, rule, "score a module that gives logits alone")
    if torch.is_grad_enabled() and not y.requires_grad:
        rule = "needs logits that can be differentiated, and the network's cannot"
        remedy = "take detach() and no_grad() out of its forward, or leave the proxy out"
        raise ScoreError("proxies", proxy, rule, remedy)
    return y


def _weights(net: nn.Module, layers: Watch) -> list[Tensor]:
    """Each layer's weight once: those of modules, used or not, and those that functions used."""
    of_modules = [module.weight for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    known = {id(parameter) for parameter in net.parameters()}
    unique = {id(w): w for w in [*of_modules, *(call.weight for call in layers.calls)] if id(w) in known}
    return list(unique.values())


def _gradients_of(output: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of a number, zeros where it does not depend on a tensor; the graph stays."""
    return torch.autograd.grad(output, tensors, retain_graph=True, materialize_grads=True, allow_unused=True)


def _kernel(net: nn.Module, y: Tensor) -> Tensor:
    """``(B, B)``: inner products of the gradients of each image's summed outputs, over parameters named "weight"."""
    weights = [parameter for name, parameter in net.named_parameters() if "weight" in name]
    kernel = torch.zeros(len(y), len(y), dtype=torch.float64, device=y.device)
    for part in _parts(weights, KERNEL_BYTES // (len(y) * y.element_size())):
        rows = torch.empty(len(y), sum(weight.numel() for weight in part), dtype=y.dtype, device=y.device)
        # One pass each: batched, or to activations with a product a layer, they were no faster on a CPU.
        for row, output in zip(rows, y.sum(1), strict=True):
            torch.cat([g.flatten() for g in _gradients_of(output, part)], out=row)
        kernel += rows @ rows.T
    return kernel


def _parts(weights: Sequence[Tensor], numbers: int) -> Iterator[list[Tensor]]:
    """Split ``weights`` into parts of at most ``numbers`` numbers, or of one larger weight."""
    part: list[Tensor] = []
    for weight in weights:
        if part and sum(one.numel() for one in part) + weight.numel() > numbers:
            yield part
            part = []
        part.append(weight)
    if part:
        yield part
