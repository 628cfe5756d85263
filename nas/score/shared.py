"""What is read off the first batch: one forward and one backward pass serve every proxy that can share them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.errors import ScoreError
from nas.score import formulas
from nas.score.watch import Layers, Rectifiers

OF_LAYERS = ("snip", "grasp", "grad_norm", "fisher", "zico", "l2_norm")
OF_LOSS = ("snip", "grasp", "grad_norm", "fisher", "zico")
SHARED = ("jacob_cov", "naswot", "ntk_condition", *OF_LAYERS)
"""Proxies that the first batch of images is carried through the network for."""
KERNEL_BYTES = 2**29
"""For the gradients of all images; what does not fit is taken in parts, each for another round of passes."""

Batch = tuple[Tensor, Tensor]


def of_batches(net: nn.Module, wanted: Sequence[str], batches: Sequence[Batch]) -> dict[str, float]:
    """Those of the ``SHARED`` proxies that are wanted.

    The forward pass of the first batch serves all of them; the backward pass of the loss serves ``snip``,
    ``grad_norm``, ``fisher``, ``zico`` and, kept differentiable, ``grasp``. On top come a backward pass of the summed
    outputs to the images for ``jacob_cov``, one for each image for ``ntk_condition``, a second derivative for
    ``grasp``, and another forward and backward pass for each further batch of ``zico``.

    BatchNorm takes the batch's statistics everywhere; a 2-D convolution or Linear counts as a layer whether a module
    or a function computes it.

    Args:
        net: private, in eval mode, all of whose parameters require grad.
        wanted: at least one.
        batches: ``(x, labels)``; all but ``zico`` see the first alone.

    Raises:
        ScoreError: the network has no ReLU or no layer, or does not give logits; ``zico`` has one batch.
    """
    asked, values = set(wanted), {}
    x, labels = (tensor.detach().clone() for tensor in batches[0])
    x.requires_grad_("jacob_cov" in asked)
    layers = Layers(wanted[0], net.parameters(), apart="fisher" in asked)
    rectifiers = Rectifiers(len(x))
    with ExitStack() as watching:
        watching.enter_context(torch.set_grad_enabled(bool(asked - {"naswot", "l2_norm"})))
        if "naswot" in asked:
            watching.enter_context(rectifiers)
        watching.enter_context(layers)
        y = _logits(net, x, wanted[0])
    weights = _weights(net, layers)
    for name in OF_LAYERS:
        if name in asked and not weights:
            raise ScoreError(
                "proxies", name, "needs a 2-D convolution or a Linear, and the network has none", "leave it out"
            )
    if "naswot" in asked:
        if not rectifiers.seen:
            raise ScoreError("proxies", "naswot", "needs a ReLU, and the network has none", "leave it out")
        values["naswot"] = formulas.naswot(rectifiers.agreements)
    if "l2_norm" in asked:
        values["l2_norm"] = formulas.l2_norm([weight.detach() for weight in weights])
    if "jacob_cov" in asked:
        values["jacob_cov"] = formulas.jacob_cov(_to_pictures(y, x).flatten(1))
    if "ntk_condition" in asked:
        values["ntk_condition"] = formulas.condition(_kernel(net, y), torch.finfo(y.dtype).eps)
    if asked & set(OF_LOSS):
        values |= _of_loss(net, asked, F.cross_entropy(y, labels), layers, weights, batches[1:])
    return values


def _of_loss(
    net: nn.Module, asked: set[str], loss: Tensor, layers: Layers, weights: list[Tensor], others: Sequence[Batch]
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
        values["grad_norm"] = formulas.grad_norm(gradients)
    if twice:
        pairs = zip(first, gradients, strict=True)
        square = torch.stack([(g * fixed).sum() for g, fixed in pairs if g is not None and fixed is not None]).sum()
        products = torch.autograd.grad(square, weights, allow_unused=True)
        values["grasp"] = formulas.grasp(plain, products)
    if "zico" in asked:
        del found, first, loss  # and with them the graph
        all_batches = [gradients, *(_gradients(net, batch, weights) for batch in others)]
        if len(all_batches) < 2:
            raise ScoreError(
                "proxies", "zico", "needs at least 2 batches: it is about how gradients deviate", "give batches=2"
            )
        values["zico"] = formulas.zico(all_batches)
    return values


def _gradients(net: nn.Module, batch: Batch, weights: list[Tensor]) -> tuple[Tensor | None, ...]:
    x, labels = batch
    with Layers("zico", ()):
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
        raise ScoreError(
            "proxies", proxy, rule, "take detach() and no_grad() out of its forward, or leave the proxy out"
        )
    return y


def _weights(net: nn.Module, layers: Layers) -> list[Tensor]:
    """The layers' weights, each once: those of modules, used or not, and those that functions used."""
    of_modules = [module.weight for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    known = {id(parameter) for parameter in net.parameters()}
    unique = {id(w): w for w in [*of_modules, *(call.weight for call in layers.calls)] if id(w) in known}
    return list(unique.values())


def _to_pictures(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y.sum(), x, retain_graph=True, materialize_grads=True, allow_unused=True)[0]


def _kernel(net: nn.Module, y: Tensor) -> Tensor:
    """``(B, B)``: inner products of the gradients of each image's summed outputs over parameters named weight."""
    weights = [parameter for name, parameter in net.named_parameters() if "weight" in name]
    kernel = torch.zeros(len(y), len(y), dtype=torch.float64, device=y.device)
    for part in _parts(weights, KERNEL_BYTES // (len(y) * y.element_size())):
        rows = torch.zeros(len(y), sum(weight.numel() for weight in part), dtype=y.dtype, device=y.device)
        for row, output in zip(rows, y.sum(1), strict=True):
            found = torch.autograd.grad(output, part, retain_graph=True, allow_unused=True)
            ends = torch.tensor([0, *(weight.numel() for weight in part)]).cumsum(0).tolist()
            for (begin, end), g in zip(pairwise(ends), found, strict=True):
                if g is not None:
                    row[begin:end] = g.flatten()
        kernel += rows @ rows.T
    return kernel


def _parts(weights: Sequence[Tensor], numbers: int) -> Iterator[list[Tensor]]:
    """``weights`` in order, in parts of at most ``numbers`` numbers, or one weight."""
    part: list[Tensor] = []
    for weight in weights:
        if part and sum(one.numel() for one in part) + weight.numel() > numbers:
            yield part
            part = []
        part.append(weight)
    if part:
        yield part
