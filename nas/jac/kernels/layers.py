"""The kernel of one layer's parameters, two ways, and which of them is less work.

A layer with weight ``w`` is ``y[o, t] = sum_i w[o, i] h[i, t]`` at positions ``t``: one for a Linear on vectors, the
tokens for a Linear on sequences, the pixels of the output map for a convolution, whose ``h`` are patches. With ``g``
the derivative of an output of the network by ``y``, the derivative by ``w`` is ``J[o, i] = sum_t g[o, t] h[i, t]``, and
the layer's part of the kernel, ``<J, J'>``, can be had

- from ``J`` itself, which has as many entries as the weight (:class:`Rows`), or
- from the Gram of the activations and that of the gradients, without any ``J``:
  ``sum_tu (sum_i h[i, t] h'[i, u]) (sum_o g[o, t] g'[o, u])`` (:class:`Factors`).

Source of the second: Novak, Sohl-Dickstein, Schoenholz 2022, arXiv:2206.08720, "structured derivatives"; for a Linear
and the norms of single gradients already Goodfellow 2015, arXiv:1510.01799.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

WORTH_SPLITTING = 128
"""Rows below which a symmetric product is not split: two small products take longer than a large one."""


def patches(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Tensor:
    """What each output position of a convolution sees, for one, two or three dimensions.

    Args:
        x: ``(N, C, *in)``.
        kernel: sizes.
        stride: steps.
        padding: zeros before and after, for each dimension.
        dilation: distances of the kernel's entries.

    Returns:
        ``(N, C * prod(kernel), T)``.
    """
    if any(any(sides) for sides in padding):
        x = F.pad(x, [side for sides in reversed(padding) for side in sides])
    sizes = zip(x.shape[2:], kernel, stride, dilation, strict=True)
    out = [(size - apart * (k - 1) - 1) // step + 1 for size, k, step, apart in sizes]
    steps = x.stride()
    inner = [a * b for a, b in zip(steps[2:], dilation, strict=True)]
    outer = [a * b for a, b in zip(steps[2:], stride, strict=True)]
    seen = x.as_strided((*x.shape[:2], *kernel, *out), (*steps[:2], *inner, *outer))
    return seen.reshape(len(x), x.shape[1] * math.prod(kernel), math.prod(out))


def weight_jacobian(h: Tensor, g: Tensor, groups: int) -> Tensor:
    """The derivative of outputs by a weight, for each sample.

    Args:
        h: activations ``(B, groups * I, T)``.
        g: gradients ``(B, S, O, T)``.
        groups: G; each block of ``O / G`` outputs sees ``I`` inputs of its own.

    Returns:
        ``(B, S, O * I)``.
    """
    batch, seeds, outputs, positions = g.shape
    if groups == 1:
        return (g.reshape(batch, seeds * outputs, positions) @ h.mT).view(batch, seeds, -1)
    blocks = g.unflatten(2, (groups, -1)).transpose(1, 2).flatten(2, 3)  # (B, G, S * O / G, T)
    j = blocks @ h.unflatten(1, (groups, -1)).mT
    return j.unflatten(2, (seeds, -1)).transpose(1, 2).flatten(2).contiguous()


@dataclass
class Rows:
    """Rows of a Jacobian.

    Attributes:
        j: ``(B, S, P)``.
    """

    j: Tensor

    @property
    def samples(self) -> int:
        """How many, B."""
        return len(self.j)

    def part(self, start: int, stop: int) -> Rows:
        """Those of some of the samples.

        Args:
            start: the first sample.
            stop: the one after the last.

        Returns:
            Views.
        """
        return Rows(self.j[start:stop])


@dataclass
class Factors:
    """Activations and gradients of a layer, from which its part of the kernel follows.

    Attributes:
        h: activations ``(B, I, T)``.
        g: gradients ``(B, S, O, T)``.
        bias: whether the layer's bias counts too: it is a weight whose activation is 1.
    """

    h: Tensor
    g: Tensor
    bias: bool

    @property
    def samples(self) -> int:
        """How many, B."""
        return len(self.h)

    def part(self, start: int, stop: int) -> Factors:
        """Those of some of the samples.

        Args:
            start: the first sample.
            stop: the one after the last.

        Returns:
            Views.
        """
        return Factors(self.h[start:stop], self.g[start:stop], self.bias)


Feature = Rows | Factors
"""What is kept of a layer for a few samples."""


def summed(feature: Feature) -> Feature:
    """The feature whose kernel is the trace over output entries: they become part of what is summed over.

    Args:
        feature: with S entries a sample.

    Returns:
        The same memory, with one entry a sample.
    """
    if isinstance(feature, Rows):
        return Rows(feature.j.flatten(1).unsqueeze(1))
    return Factors(feature.h, feature.g.flatten(1, 2).unsqueeze(1), feature.bias)


def add_product(out: Tensor, a: Feature, b: Feature) -> None:
    """Add a layer's part of the kernel to a block of it.

    Args:
        out: ``(N, n1 * S1, n2 * S2)``, changed in place: ``N`` blocks, each of ``n1`` by ``n2`` samples.
        a: of ``N * n1`` samples.
        b: of ``N * n2`` samples, of the same layer.
    """
    if isinstance(a, Rows):
        assert isinstance(b, Rows), "a layer goes one way in both batches"
        j1, j2 = (rows.j.reshape(len(out), -1, rows.j.shape[-1]) for rows in (a, b))
        if len(out) == 1:
            out[0].addmm_(j1[0], j2[0].mT)
        else:
            out.baddbmm_(j1, j2.mT)
        return
    assert isinstance(b, Factors), "a layer goes one way in both batches"
    if a.h.shape[-1] == 1:
        _add_one_position(out, a, b)
    else:
        _add_positions(out, a, b)


def add_upper_product(out: Tensor, a: Feature) -> None:
    """:func:`add_product` of a feature with itself, of which the part below the diagonal may be left out.

    Args:
        out: ``(1, n * S, n * S)``, changed in place.
        a: of ``n`` samples.
    """
    rows, samples = out.shape[1], a.samples
    parts = max(1, min(samples, rows // WORTH_SPLITTING, 4))
    step = -(-samples // parts)
    entries = rows // samples
    for i in range(0, samples, step):
        upper = slice(i * entries, (i + step) * entries)
        for j in range(i, samples, step):
            right = slice(j * entries, (j + step) * entries)
            add_product(out[:, upper, right], a.part(i, i + step), a.part(j, j + step))


def _add_one_position(out: Tensor, a: Factors, b: Factors) -> None:
    blocks = len(out)
    h1, h2 = (f.h.reshape(blocks, -1, f.h.shape[1]) for f in (a, b))
    g1, g2 = (f.g.reshape(blocks, -1, f.g.shape[2]) for f in (a, b))
    gram = h1 @ h2.mT
    if a.bias:
        gram += 1
    part = g1 @ g2.mT
    entries = part.view(blocks, h1.shape[1], a.g.shape[1], h2.shape[1], b.g.shape[1])
    entries *= gram[:, :, None, :, None]
    out += part


def _add_positions(out: Tensor, a: Factors, b: Factors) -> None:
    blocks, (s1, outputs, t1) = len(out), a.g.shape[1:]
    per1, per2 = len(a.h) // blocks, len(b.h) // blocks
    for i in range(blocks * per1):
        block = i // per1
        others = slice(block * per2, (block + 1) * per2)
        gram = a.h[i].mT @ b.h[others]  # (n2, T1, T2)
        if a.bias:
            gram += 1
        weighed = (a.g[i].reshape(s1 * outputs, t1) @ gram).view(per2, s1, -1)
        part = weighed @ b.g[others].flatten(2).mT  # (n2, S1, S2)
        first = (i % per1) * s1
        out[block, first : first + s1] += part.transpose(0, 1).flatten(1)
