"""The published formulas, applied to tensors that a pass over a network has produced."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nas.score.watch import Call

Gradients = Sequence[Tensor | None]
"""One for each layer's weight; None where the loss does not depend on it, which counts as zero."""


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues of a symmetric matrix, ascending; NaN where the matrix is not finite (LAPACK raises an error)."""
    return torch.linalg.eigvalsh(matrix) if bool(matrix.isfinite().all()) else matrix.new_full((len(matrix),), math.nan)


def jacob_cov(jacobian: Tensor) -> float:
    """``-sum(log(v + k) + 1 / (v + k))``, ``v`` the eigenvalues of the correlations of the rows, ``k = 1e-5``.

    Source: Mellor et al., *Neural Architecture Search without Training*, first version, arXiv:2006.04647v1; the
    implementation of Abdelfattah et al., arXiv:2101.08134.

    The published score is meaningless where the summed outputs do not depend on the images, as in a network that has
    only means and Linears after its last BatchNorm: it then correlates rounding errors.

    Args:
        jacobian: ``(B, N)``, each image's gradient of the batch's summed outputs.

    Returns:
        The score; ``-inf`` where an image's gradient is constant and has no correlation.
    """
    rows = jacobian.double()
    if bool((rows == rows[:, :1]).all(1).any()):
        return -math.inf
    v = eigenvalues(torch.corrcoef(rows)) + 1e-5
    return -float((v.log() + 1 / v).sum())


def naswot(agreements: Tensor) -> float:
    """``log |det K|`` of the agreements ``(B, B)``.

    Source: Mellor et al., *Neural Architecture Search without Training*, ICML 2021, arXiv:2006.04647.

    Returns:
        The score; ``-inf`` where the matrix is singular to rounding: no ReLU tells two images apart.
    """
    values = eigenvalues(agreements)
    if float(values[0]) <= float(values[-1]) * len(values) * torch.finfo(values.dtype).eps:
        return -math.inf
    return float(values.log().sum())


def condition(kernel: Tensor, eps: float) -> float:
    """Largest over smallest eigenvalue of a kernel ``(B, B)``.

    Source: Chen, Gong, Wang, *Neural Architecture Search on ImageNet in Four GPU Hours* (TE-NAS), ICLR 2021,
    arXiv:2102.11535.

    Args:
        kernel: symmetric.
        eps: of the type in which it was computed.

    Returns:
        The condition number, at least 1; ``inf`` where the kernel is singular to that type's rounding.
    """
    values = eigenvalues(kernel.double())
    least, largest = float(values[0]), float(values[-1])
    return math.inf if least <= largest * len(values) * eps else largest / least


def snip(weights: Sequence[Tensor], gradients: Gradients) -> float:
    """``sum |w dL/dw|``.

    Source: Lee, Ajanthan, Torr, ICLR 2019, arXiv:1810.02340 (the gradient of a mask of ones); summed over all
    weights by Abdelfattah et al., arXiv:2101.08134, as are the following.
    """
    return sum(_total((w * g).abs()) for w, g in zip(weights, gradients, strict=True) if g is not None)


def norms(tensors: Gradients) -> float:
    """The sum of the layers' norms, not the norm of all: ``l2_norm`` of weights, ``grad_norm`` of gradients."""
    return sum(float(torch.linalg.vector_norm(t.double())) for t in tensors if t is not None)


def grasp(weights: Sequence[Tensor], products: Gradients) -> float:
    """``-sum w (H g)``, with the sign of Abdelfattah et al.

    Source: Wang, Zhang, Grosse, ICLR 2020, arXiv:2002.07376.

    Args:
        weights: the layers' weights.
        products: the loss's Hessian times its gradient, one for each weight.
    """
    return -sum(_total(w * h) for w, h in zip(weights, products, strict=True) if h is not None)


def fisher(calls: Sequence[Call], gradients: Gradients) -> float:
    """``sum 1/2 mean_n (sum_s a g)^2`` over channels, each multiplied by the channel's number of weights.

    Source: Turner et al., *BlockSwap*, ICLR 2020, arXiv:1906.04113 (one value for each channel, ``s`` its
    pixels); Abdelfattah et al. give it to each weight of the channel.

    Args:
        calls: uses of layers.
        gradients: of the loss with respect to the output of each call.
    """
    total = 0.0
    for call, g in zip(calls, gradients, strict=True):
        if g is None:
            continue
        a, channel = call.out.detach(), 1 if call.weight.dim() == 4 else -1
        pixels = (a * g).movedim(channel, 1).flatten(2).sum(2) if a.dim() > 2 else a * g
        total += _total(pixels.double().square().mean(0) / 2) * call.weight[0].numel()
    return total


def zico(gradients: Sequence[Gradients]) -> float:
    """The sum over layers of ``log sum_w mean |g| / std g``, over batches.

    Source: Li et al., *ZiCo*, ICLR 2023, arXiv:2301.11300. As in the published code, the deviation is that of the
    signed gradients over the given batches (ddof 0), and weights and layers without deviation are left out. Unlike
    there, gradients do not accumulate over batches.

    Args:
        gradients: for each batch, the gradients of the layers.

    Returns:
        The score; ``-inf`` where no gradient deviates at all.
    """
    total, any_layer = 0.0, False
    for of_batches in zip(*gradients, strict=True):
        if of_batches[0] is None:
            continue
        g = torch.stack([one.flatten() for one in of_batches]).double()
        # Tensor.std takes ten times as long. Equal gradients differ by exactly 0, whatever their mean is rounded to.
        apart = g - g[0]
        std = (apart - apart.mean(0)).square().mean(0).sqrt()
        ratios = g.abs().mean(0)[std > 0] / std[std > 0]
        if (layer := float(ratios.sum())) > 0:
            total, any_layer = total + math.log(layer), True
    return total if any_layer else -math.inf


def _total(values: Tensor) -> float:
    return float(values.detach().sum(dtype=torch.float64))
