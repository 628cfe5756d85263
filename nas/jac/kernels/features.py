"""What samples give to a kernel: for each layer its feature, the rows of its Jacobian or their factors; and products.

A layer with weight ``w`` is ``y[o, t] = sum_i w[o, i] h[i, t]`` at positions ``t``: one for a Linear on vectors, the
tokens for one on sequences, the pixels of a convolution's output, whose ``h`` are patches. A bias is the weight of an
``h`` of ones. With the cotangent ``g`` of ``y``, the derivative by ``w`` is ``J[o, i] = sum_t g[o, t] h[i, t]``, and
the layer's part of the kernel, ``<J, J'>``, that of the rows ``J``, or, without any ``J``,
``sum_tu (sum_i h[i, t] h'[i, u]) (sum_o g[o, t] g'[o, u])`` (Novak, Sohl-Dickstein, Schoenholz 2022, arXiv:2206.08720,
"structured derivatives"; for a Linear and the norms of single gradients already Goodfellow 2015, arXiv:1510.01799).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.jac.kernels.record import Recorder, Sizes, Use, vjp
from nas.jac.kernels.replaced import rows_one_by_one, vectorised_rows
from nas.jac.kernels.survey import Layer, Survey, Work
from nas.jac.refuse import Function

LARGE = 2**16  # activations of a sample above which samples go one by one: they stay in the cache for all seeds
WORTH_SPLITTING = 128  # rows of the kernel below which a product is not split: small ones take longer than a large one


@dataclass
class Feature:
    """Rows of a Jacobian, ``g`` ``(B, S, P, 1)``; or cotangents ``(B, S, O, T)`` and activations ``(B, I, T)``."""

    g: Tensor
    h: Tensor | None = None

    def part(self, start: int, stop: int) -> Feature:
        """Views of some of the samples."""
        return Feature(self.g[start:stop], None if self.h is None else self.h[start:stop])


def feature_sizes(known: Survey, work: Work) -> list[Sizes]:
    """Of each feature: a layer's own, or those of rows, which are P outputs of no input at one position."""
    each = [(layer.size, layer.as_rows(work)) for layer in known.layers]
    sizes = [Sizes(0, size.outputs * size.inputs, 1) if rows else size for size, rows in each]
    return [*sizes, Sizes(0, sum(leaf.numel() for leaf in known.others), 1)] if known.others else sizes


def features(fn: Function, known: Survey, x: Tensor, seeds: Tensor, work: Work, together: int) -> list[Feature]:
    """The features of all parameters for seeds ``(S, M)``, made for ``together`` samples at a time."""
    made = []
    for size in feature_sizes(known, work):
        g = seeds.new_empty(len(x), len(seeds), size.outputs, size.positions, dtype=known.dtype)
        made.append(Feature(g, g.new_empty(len(x), size.inputs, size.positions) if size.inputs else None))
    for start in range(0, len(x), together):
        some, parts = x[start : start + together], [feature.part(start, start + together) for feature in made]
        if known.layers:
            calls = _calls(fn, known.layers, some, seeds)
            for layer, part in zip(known.layers, parts, strict=False):
                _fill(part, layer, calls.pop(0))  # and with a call's last layer its cotangents go
        if known.others:
            rows = rows_one_by_one if known.alone else vectorised_rows
            parts[-1].g[..., 0] = rows(fn, known.others, some, seeds)
    return made


def _calls(fn: Function, layers: Sequence[Layer], x: Tensor, seeds: Tensor) -> list[list[Use]]:
    """The calls of each layer in a run, with their cotangents."""
    with Recorder() as record:
        y = fn(x)
    calls = [layer.uses(record) for layer in layers]
    uses = list(dict.fromkeys(use for own in calls for use in own))
    # A plain pass for each seed, by no weight, which is what makes them cheap. Batched ones (is_grads_batched) are no
    # faster on a CPU, and not every backward function has them.
    for number, seed in enumerate(seeds):
        found = vjp(y, seed, [use.edge for use in uses], keep=number + 1 < len(seeds))
        for use, cotangent in zip(uses, found, strict=True):
            use.cotangents.append(y.new_zeros(use.shape) if cotangent is None else cotangent)
    return calls


def _fill(feature: Feature, layer: Layer, uses: Sequence[Use]) -> None:
    (batch, seeds), dtype, size = feature.g.shape[:2], feature.g.dtype, layer.size
    g = [_joined([use.by_position(use.cotangents[n].to(dtype), batch) for use in uses]) for n in range(seeds)]
    together = 1 if size.inputs * size.groups * size.positions > LARGE else batch
    for start in range(0, batch, together):
        part, own = feature.part(start, start + together), [one[start : start + together] for one in g]
        h = _joined([use.activations(layer.parameters, batch, start, start + together).to(dtype) for use in uses])
        if part.h is None:
            write_rows(part.g.view(len(h), seeds, *h.shape[1:3], -1), h, own)
        else:
            part.h.copy_(h[:, 0])
            torch.stack([one[:, 0] for one in own], 1, out=part.g)


def _joined(calls: list[Tensor]) -> Tensor:
    """Positions of several calls as positions of one layer."""
    return calls[0] if len(calls) == 1 else torch.cat(calls, -1)


def write_rows(j: Tensor, h: Tensor, g: Sequence[Tensor]) -> None:
    """Write ``h g^T`` to ``j`` ``(B, S, G, I, O)``, of activations ``(B, G, I, T)`` and cotangents ``(B, G, O, T)``."""
    for seed, one in enumerate(g):
        if len(h) == 1:
            torch.bmm(h[0], one[0].mT, out=j[0, seed])  # saves a copy
        else:
            j[:, seed] = h @ one.mT


def add_products(out: Tensor, a: Sequence[Feature], b: Sequence[Feature]) -> None:
    """Add to the kernel ``(B1, S1, B2, S2)``, or traces ``(B1, 1, B2, 1)``; above the diagonal if ``a`` is ``b``."""
    for one, two in zip(a, b, strict=True):
        step = 1 if one.g.shape[-1] > 1 else -(-WORTH_SPLITTING // out.shape[1])
        for start in range(0, len(out), step):
            stop, first = start + step, start if one is two else 0
            _add_product(out[start:stop, :, first:], one.part(start, stop), two.part(first, len(two.g)))


def _add_product(out: Tensor, a: Feature, b: Feature) -> None:
    if a.g.shape[-1] > 1:
        return add_equal(out[0].transpose(0, 1), a, b)
    batch1, seeds1, batch2, seeds2 = out.shape
    g1, g2 = a.g.reshape(batch1 * seeds1, -1), b.g.reshape(batch2 * seeds2, -1)
    if a.h is None or b.h is None:
        out.view(len(g1), len(g2)).addmm_(g1, g2.mT)
    else:
        weights = (a.h.flatten(1) @ b.h.flatten(1).mT)[:, None, :, None].expand(-1, -1, -1, seeds2)
        out.addcmul_((g1 @ g2.mT).view(out.shape), weights.contiguous())  # which saves time: seeds are few


def add_equal(out: Tensor, a: Feature, b: Feature) -> None:
    """Add a layer's part to the kernel ``(B, S1, S2)`` of equal samples, or of one of ``a`` with all of ``b``."""
    g = a.g if a.h is None or b.h is None else a.g.flatten(1, 2) @ (a.h.mT @ b.h)
    out += g.reshape(*out.shape[:2], -1) @ b.g.reshape(len(out), out.shape[2], -1).mT
