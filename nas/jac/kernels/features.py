"""What some samples give to a kernel: each layer's feature, its rows of the Jacobian or their factors; and products.

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

from nas.jac.kernels.record import Recorder, Sizes, Use, vjp
from nas.jac.kernels.replaced import rows_one_by_one, vectorised_rows
from nas.jac.kernels.survey import Layer, Survey, Work
from nas.jac.watch import Function

LARGE = 2**16
"""Activations of a sample above which samples go one by one: they stay in the cache for all seeds' cotangents."""


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


def features(fn: Function, known: Survey, x: Tensor, seeds: Tensor, work: Work, together: int) -> list[Feature]:
    """The features of all parameters for seeds ``(S, M)``, made for ``together`` samples at a time."""
    made = []
    others = sum(leaf.numel() for leaf in known.others)
    for layer in known.layers:
        size, rows = layer.size, layer.as_rows(work)
        shape = (size.outputs * size.inputs, 1) if rows else (size.outputs, size.positions)
        g = seeds.new_empty(len(x), len(seeds), *shape, dtype=known.dtype)
        made.append(Feature(g, None if rows else g.new_empty(len(x), size.inputs, size.positions)))
    if others:
        made.append(Feature(seeds.new_empty(len(x), len(seeds), others, 1, dtype=known.dtype)))
    for start in range(0, len(x), together):
        some, parts = x[start : start + together], [feature.part(start, start + together) for feature in made]
        if known.layers:
            _fill(fn, known, some, seeds, parts[: len(known.layers)])
        if known.alone:
            parts[-1].g[..., 0] = rows_one_by_one(fn, known.others, some, seeds)
        elif others:
            parts[-1].g[..., 0] = vectorised_rows(fn, known.others, some, seeds)
    return [feature.summed() for feature in made] if work.summed else made


def _fill(fn: Function, known: Survey, x: Tensor, seeds: Tensor, parts: Sequence[Feature]) -> None:
    with Recorder() as record:
        y = fn(x)
    calls = [layer.uses(record) for layer in known.layers]
    _take_cotangents(y, list(dict.fromkeys(use for own in calls for use in own)), seeds)
    del record, y
    for part, layer in zip(parts, known.layers, strict=True):
        _fill_layer(part, layer, calls.pop(0))  # and with a call's last layer its cotangents go


def _take_cotangents(y: Tensor, uses: Sequence[Use], seeds: Tensor) -> None:
    # A plain pass for each seed, by no weight, which is what makes them cheap. Batched ones (is_grads_batched) are no
    # faster on a CPU, and not every backward function has them.
    for number, seed in enumerate(seeds):
        found = vjp(y, seed, [use.edge for use in uses], keep=number + 1 < len(seeds))
        for use, cotangent in zip(uses, found, strict=True):
            use.cotangents.append(y.new_zeros(use.shape) if cotangent is None else cotangent)


def _fill_layer(feature: Feature, layer: Layer, uses: Sequence[Use]) -> None:
    batch, dtype, size = len(feature.g), feature.g.dtype, layer.size
    of_uses = [[use.by_position(one.to(dtype), batch) for one in use.cotangents] for use in uses]
    g = [_joined(of_seed) for of_seed in zip(*of_uses, strict=True)]
    together = 1 if size.inputs * size.groups * size.positions > LARGE else batch
    for start in range(0, batch, together):
        some, part = slice(start, start + together), feature.part(start, start + together)
        h = _joined([use.activations(layer.parameters, batch, start, start + together).to(dtype) for use in uses])
        if part.h is None:
            write_rows(part.g.view(len(h), len(g), size.groups, size.inputs, -1), h, [one[some] for one in g])
        else:
            part.h.copy_(h[:, 0])
    if feature.h is not None:
        torch.stack([one[:, 0] for one in g], 1, out=feature.g)


def write_rows(j: Tensor, h: Tensor, g: Sequence[Tensor]) -> None:
    """Write ``h g^T`` to ``j`` ``(B, S, G, I, O)``, of activations ``(B, G, I, T)`` and cotangents ``(B, G, O, T)``."""
    if len(h) == 1:
        seen = h[0]
        for row, (one,) in zip(j[0], g, strict=True):
            torch.bmm(seen, one.mT, out=row)
        return
    for seed, one in enumerate(g):
        j[:, seed] = h @ one.mT


def _joined(parts: Sequence[Tensor]) -> Tensor:
    # Positions of several calls are positions of one layer.
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


def product_elements(size: Sizes, seeds: int, samples: int, summed: bool) -> int:
    """Elements that :func:`add_product` makes besides its result, for factors of ``samples`` on each side."""
    t, entries = size.positions, 1 if summed else seeds
    if t == 1:
        return samples * samples * (entries * entries + 1)
    return samples * (t * t + 2 * seeds * size.outputs * t)


def add_product(out: Tensor, a: Feature, b: Feature) -> None:
    """Add a layer's part to the kernel ``(B1 * S1, B2 * S2)`` of all pairs of samples."""
    g1, g2 = (feature.g.flatten(0, 1).flatten(1) for feature in (a, b))
    if a.h is None or b.h is None:
        out.addmm_(g1, g2.mT)
    elif a.h.shape[-1] == 1:
        part = (g1 @ g2.mT).view(*a.g.shape[:2], *b.g.shape[:2])
        part *= (a.h.flatten(1) @ b.h.flatten(1).mT)[:, None, :, None]
        out += part.flatten(2).flatten(0, 1)
    else:
        for rows, g, h in zip(out.view(*a.g.shape[:2], -1), a.g, a.h, strict=True):
            weighed = (g.flatten(0, 1) @ (h.mT @ b.h)).view(len(b.g), len(g), -1)
            rows += (weighed @ b.g.flatten(2).mT).transpose(0, 1).flatten(1)  # (B2, S1, S2) before


def add_equal(out: Tensor, a: Feature, b: Feature) -> None:
    """Add a layer's part to the kernel ``(B, S1, S2)`` of equal samples."""
    g = a.g if a.h is None or b.h is None else a.g.flatten(1, 2) @ (a.h.mT @ b.h)
    out.baddbmm_(g.view(*a.g.shape[:2], -1), b.g.flatten(2).mT)
