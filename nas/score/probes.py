"""Proxies that make their own inputs, and some their own weights: they look at no image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from nas.cost import FlopCounter
from nas.score.formulas import eigenvalues
from nas.score.proxies import missing
from nas.score.watch import Watch
from nas.seeds import generator

MIXUP = 1e-2
"""Size of the change of zen's input, as published."""


class _Linearised(Watch):
    """BatchNorm as identity."""

    def normalise(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        return x.clone()  # as a BatchNorm's output, which may be written to


def synflow(net: nn.Module, like: Tensor, seed: int) -> float:
    """``log sum |w dR/dw|`` over the layers' weights, ``R`` the summed outputs.

    All parameters and buffers are replaced by their absolute values, BatchNorm by the identity, the input is one
    image of ones, and everything is float64. The sum spans hundreds of orders of magnitude, hence the logarithm.

    Source: Tanaka et al., *Pruning neural networks without any data by iteratively conserving synaptic flow*, NeurIPS
    2020, arXiv:2006.05467; the implementation of Abdelfattah et al., arXiv:2101.08134.

    Args:
        net: in eval mode.
        like: images ``(B, C, H, W)``; only their shape matters.
        seed: unused, since nothing is random.

    Returns:
        The logarithm; ``-inf`` where nothing flows.

    Raises:
        ScoreError: the network has no convolution and no Linear.
    """
    absolute = {name: _absolute(value) for name, value in net.named_buffers()}
    weights = {name: _absolute(value).requires_grad_() for name, value in net.named_parameters()}
    layers = _Linearised("synflow", weights.values())
    with layers:
        y = functional_call(net, absolute | weights, (like.new_ones(1, *like.shape[1:], dtype=torch.float64),))
    if not layers.calls:
        raise missing("synflow", "a 2-D convolution or a Linear")
    used = list({id(call.weight): call.weight for call in layers.calls}.values())
    gradients = torch.autograd.grad(y.sum(), used, allow_unused=True)
    flow = sum(float((w * g).detach().abs().sum()) for w, g in zip(used, gradients, strict=True) if g is not None)
    return math.log(flow) if flow > 0 else -math.inf


def _absolute(value: Tensor) -> Tensor:
    value = value.detach()
    return value.double().abs() if value.is_floating_point() else value.clone()


class _Features(Watch):
    """Notes the last feature maps before the global pooling, and the scale that the BatchNorms up to there remove."""

    maps: Tensor | None = None

    def __init__(self, images: int) -> None:
        super().__init__("zen")
        self.log_scale, self._behind, self._images = 0.0, 0.0, images

    def normalise(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        variance = x.double().var([i for i in range(x.dim()) if i != 1]).mean()
        self._behind += float(variance.log()) / 2
        return super().normalise(x, weight, bias, eps)

    def saw(self, result: Any) -> None:
        maps = isinstance(result, Tensor) and result.dim() == 4 and len(result) == self._images
        if maps and result.shape[2:].numel() > 1:
            self.maps = result
            self.log_scale, self._behind = self.log_scale + self._behind, 0.0


def zen(net: nn.Module, like: Tensor, seed: int) -> float:
    """``log mean sum |f(x + 0.01 e) - f(x)| + sum log sqrt(mean var)``, over the BatchNorms up to ``f``.

    ``f`` are the feature maps before the global pooling: the last tensor ``(B, C, H, W)`` of more than one pixel.
    Weights, ``x`` and ``e`` are standard normal, of the images' shape, from ``generator(seed, "zen")``: first the
    weights in the order of the modules, then ``x``, then ``e``. Biases are 0, the affine weights of normalisations 1.
    BatchNorm uses the batch's statistics, and ``var`` is the variance of a channel of its input for ``x``, as in the
    paper's algorithm. (The published code reads running variances, which still hold some of their initial 1.) Each
    call makes one draw; for a mean, call it with several seeds.

    Source: Lin et al., *Zen-NAS*, ICCV 2021, arXiv:2102.01063.

    Args:
        net: in eval mode.
        like: images ``(B, C, H, W)``; only their shape matters.
        seed: of the random draws.

    Returns:
        The score; ``-inf`` where the features do not change, or a BatchNorm's input does not vary.

    Raises:
        ScoreError: the network has no feature maps.
    """
    draws = generator(seed, "zen")
    weights = _gaussian(net, draws)
    x, e = (torch.randn(like.shape, generator=draws).to(like) for _ in range(2))
    changed = x + MIXUP * e  # before the modes, for which an input is not a feature map
    with torch.no_grad():
        with _Features(len(like)) as mixed:
            functional_call(net, weights, (changed,))
        with _Features(len(like)) as clean:
            functional_call(net, weights, (x,))
    if clean.maps is None or mixed.maps is None:
        raise missing("zen", "the feature maps of a convolutional network")
    change = float((clean.maps - mixed.maps).double().abs().flatten(1).sum(1).mean())
    if change == 0 or clean.log_scale == -math.inf:
        return -math.inf
    return math.log(change) + clean.log_scale


def _gaussian(net: nn.Module, draws: torch.Generator) -> dict[str, Tensor]:
    """Zen's initial weights, by name. A parameter of two or more dimensions is a weight, whatever module it is in."""
    names: dict[str, Tensor] = {}
    values: dict[Tensor, Tensor] = {}  # a shared weight has several names, and is drawn for each
    for prefix, module in net.named_modules():
        norm = isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm))
        for name, old in module.named_parameters(recurse=False):
            if norm or old.dim() < 2:
                new = torch.ones_like(old) if norm and name == "weight" else old.detach()
                new = torch.zeros_like(old) if name == "bias" else new
            else:
                new = torch.randn(old.shape, generator=draws).to(old)
            names[f"{prefix}.{name}".lstrip(".")], values[old] = old, new
    return {name: values[old] for name, old in names.items()}


def meco(net: nn.Module, like: Tensor, seed: int) -> float:
    """The sum over modules of the smallest eigenvalue of the correlations between their output channels.

    The input is one standard normal image from ``generator(seed, "meco")`` in the shape of the images (the published
    code always takes 64x64). As in that code every module counts, containers too, and correlations of a constant
    channel are 0. With a constant channel, or with at least as many channels as pixels, the matrix is singular and
    counts as exactly 0.

    Source: Jiang, Wang, Bie, *MeCo: Zero-Shot NAS with One Data and Single Forward Pass via Minimum Eigenvalue of
    Correlation*, NeurIPS 2023.

    Args:
        net: a private network in eval mode.
        like: images ``(B, C, H, W)``; only their shape matters.
        seed: of the random draw.

    Returns:
        The sum, at least 0.

    Raises:
        ScoreError: no module gives feature maps.
    """
    x = torch.randn(1, *like.shape[1:], generator=generator(seed, "meco")).to(like)
    found: list[float] = []

    def look(module: nn.Module, args: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.dim() > 2 and len(out) == 1:
            found.append(_least_eigenvalue(out[0].flatten(1).double()))

    hooks = [module.register_forward_hook(look) for module in net.modules()]
    with torch.no_grad(), Watch("meco"):
        net(x)
    for hook in hooks:
        hook.remove()
    if not found:
        raise missing("meco", "the feature maps of modules")
    return sum(found)


def _least_eigenvalue(maps: Tensor) -> float:
    channels, pixels = maps.shape
    if channels >= pixels or bool((maps == maps[:, :1]).all(1).any()):
        return 0.0
    return float(eigenvalues(torch.corrcoef(maps).reshape(channels, channels))[0])


def parameters(net: nn.Module, like: Tensor, seed: int) -> float:
    """The number of parameters, shared ones once."""
    return float(sum(parameter.numel() for parameter in net.parameters()))


def flops(net: nn.Module, like: Tensor, seed: int) -> float:
    """Forward FLOPs of one image as torch counts them: 2 x multiply-accumulates of products and convolutions."""
    with torch.no_grad(), FlopCounter() as counted:
        net(torch.zeros_like(like[:1]))
    return float(counted.total)


PROBES: dict[str, Callable[[nn.Module, Tensor, int], float]] = {
    "synflow": synflow,
    "zen": zen,
    "meco": meco,
    "parameters": parameters,
    "flops": flops,
}
"""Proxies that share no pass with others: functions of ``(network, images, seed)``."""
