"""What a layer gives to a kernel, as rows of its Jacobian or as the factors of them, and which of both is less work.

A layer with weight ``w`` is ``y[o, t] = sum_i w[o, i] h[i, t]`` at positions ``t``: one for a Linear on vectors, the
tokens for a Linear on sequences, the pixels of the output map for a convolution, whose ``h`` are patches. A bias is the
weight of an ``h`` of ones. With the cotangent ``g`` of ``y``, the derivative by ``w`` is
``J[o, i] = sum_t g[o, t] h[i, t]``, and the layer's part of the kernel, ``<J, J'>``, is that of the rows ``J``, or
``sum_tu (sum_i h[i, t] h'[i, u]) (sum_o g[o, t] g'[o, u])``, without any ``J``.

Source of the second: Novak, Sohl-Dickstein, Schoenholz 2022, arXiv:2206.08720, "structured derivatives"; for a Linear
and the norms of single gradients already Goodfellow 2015, arXiv:1510.01799.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LARGE = 2**16
"""Activations of a sample above which samples go one by one: they stay in the cache for all seeds' cotangents."""


@dataclass
class Sizes:
    """Of a layer, for one sample: an output sees I ``inputs``; O ``outputs`` in all ``groups``; T ``positions``."""

    inputs: int
    outputs: int
    positions: int
    groups: int = 1

    @property
    def row(self) -> int:
        """Entries of the Jacobian of one output of the network."""
        return self.outputs * self.inputs


@dataclass
class Work:
    """How often features are made (``samples``) and multiplied (``pairs``), for S ``seeds`` or their sum (a trace)."""

    samples: int
    pairs: int
    seeds: int
    summed: bool


def flops_of_rows(size: Sizes, work: Work) -> int:
    """FLOPs (2 x multiply-adds) of the way through the Jacobian."""
    row = work.seeds * size.row
    products = work.pairs * row * (1 if work.summed else work.seeds)
    return 2 * (work.samples * row * size.positions + products)


def flops_of_factors(size: Sizes, work: Work) -> int:
    """FLOPs (2 x multiply-adds) of the way through the Grams of activations and cotangents."""
    t, entries = size.positions, 1 if work.summed else work.seeds
    cotangents = work.seeds * size.outputs
    first = t * t * (size.inputs + (cotangents if t > 1 else 0))
    return 2 * work.pairs * (first + cotangents * entries * t)


def rows_are_cheaper(size: Sizes, work: Work) -> bool:
    """Which way, by counted work."""
    return flops_of_rows(size, work) < flops_of_factors(size, work)


def product_elements(size: Sizes, seeds: int, samples: int, summed: bool) -> int:
    """Elements that :func:`add_product` makes besides its result, for factors of ``samples`` on each side."""
    t, entries = size.positions, 1 if summed else seeds
    if t == 1:
        return samples * samples * (entries * entries + 1)
    return samples * (t * t + 2 * seeds * size.outputs * t)


@dataclass
class Feature:
    """Rows of a Jacobian, ``g`` ``(B, S, P, 1)``; or cotangents ``(B, S, O, T)`` and activations ``(B, I, T)``."""

    g: Tensor
    h: Tensor | None = None

    def part(self, start: int, stop: int) -> Feature:
        """Views of some of the samples."""
        return Feature(self.g[start:stop], None if self.h is None else self.h[start:stop])

    def summed(self) -> Feature:
        """The feature whose kernel is the trace: output entries become part of what is summed over."""
        return Feature(self.g.flatten(1, 2).unsqueeze(1), self.h)


def write_rows(j: Tensor, h: Tensor, g: Sequence[Tensor]) -> None:
    """Write ``h g^T`` to ``j`` ``(B, S, G, I, O)``, of activations ``(B, G, I, T)`` and cotangents ``(B, G, O, T)``."""
    for seed, one in enumerate(g):
        if len(h) == 1:
            torch.bmm(h[0], one[0].mT, out=j[0, seed])
        else:
            j[:, seed] = h @ one.mT


def add_product(out: Tensor, a: Feature, b: Feature) -> None:
    """Add to ``out``, N blocks ``(N, n1 * S1, n2 * S2)``, a layer's part: of N * n1 samples and of N * n2."""
    if a.h is not None and b.h is not None and a.g.shape[-1] > 1:
        _add_positions(out, a.g, a.h, b.g, b.h)
        return
    g1, g2 = (feature.g.reshape(len(out), -1, feature.g.shape[2]) for feature in (a, b))
    if a.h is None or b.h is None:
        if len(out) == 1:
            out[0].addmm_(g1[0], g2[0].mT)
        else:
            out.baddbmm_(g1, g2.mT)
        return
    h1, h2 = (h.reshape(len(out), -1, h.shape[1]) for h in (a.h, b.h))
    gram, part = h1 @ h2.mT, g1 @ g2.mT
    entries = part.view(len(out), h1.shape[1], a.g.shape[1], h2.shape[1], b.g.shape[1])
    entries *= gram[:, :, None, :, None]
    out += part


def _add_positions(out: Tensor, g1: Tensor, h1: Tensor, g2: Tensor, h2: Tensor) -> None:
    blocks, seeds, positions = len(out), g1.shape[1], g1.shape[-1]
    per1, per2 = len(h1) // blocks, len(h2) // blocks
    for i in range(blocks * per1):
        block, first = i // per1, (i % per1) * seeds
        others = slice(block * per2, (block + 1) * per2)
        gram = h1[i].mT @ h2[others]  # (n2, T1, T2)
        weighed = (g1[i].reshape(-1, positions) @ gram).view(per2, seeds, -1)
        part = weighed @ g2[others].flatten(2).mT  # (n2, S1, S2)
        out[block, first : first + seeds] += part.transpose(0, 1).flatten(1)
