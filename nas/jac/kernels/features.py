"""What some samples give to a kernel: the feature of each layer, and of all parameters that are in none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.jac.kernels.layers import LARGE, Feature, Work, write_rows
from nas.jac.kernels.record import Recorder, Use, vjp
from nas.jac.kernels.replaced import rows_one_by_one, vectorised_rows
from nas.jac.kernels.survey import Layer, Survey
from nas.jac.watch import Function


def features(fn: Function, known: Survey, x: Tensor, seeds: Tensor, work: Work, together: int) -> list[Feature]:
    """The features of all parameters for seeds ``(S, M)``, made for ``together`` samples at a time."""
    made = [_empty(layer, len(x), seeds.to(known.dtype), work) for layer in known.layers]
    others = sum(leaf.numel() for leaf in known.others)
    if others:
        made.append(Feature(seeds.new_empty(len(x), len(seeds), others, 1, dtype=known.dtype)))
    for start in range(0, len(x), together):
        some, parts = x[start : start + together], [feature.part(start, start + together) for feature in made]
        if known.layers:
            _fill(fn, known, some, seeds, parts)
        if known.alone:
            parts[-1].g[..., 0] = rows_one_by_one(fn, known.others, some, seeds)
        elif others:
            parts[-1].g[..., 0] = vectorised_rows(fn, known.others, known.in_layers, some, seeds)
    return [feature.summed() for feature in made] if work.summed else made


def _empty(layer: Layer, batch: int, seeds: Tensor, work: Work) -> Feature:
    size = layer.size
    if layer.as_rows(work):
        return Feature(seeds.new_empty(batch, len(seeds), size.row, 1))
    h = seeds.new_empty(batch, size.inputs, size.positions)
    return Feature(seeds.new_empty(batch, len(seeds), size.outputs, size.positions), h)


def _fill(fn: Function, known: Survey, x: Tensor, seeds: Tensor, parts: Sequence[Feature]) -> None:
    with Recorder() as record:
        y = fn(x)
    calls = [layer.uses(record) for layer in known.layers]
    uses = {id(use): use for own in calls for use in own}
    del record
    edges = [use.edge for use in uses.values()]
    # A plain pass for each seed, by no weight, which is what makes them cheap. Batched ones (is_grads_batched) are no
    # faster on a CPU, and not every backward function has them.
    passes = [vjp(y, seed, edges, keep=number + 1 < len(seeds)) for number, seed in enumerate(seeds)]
    cotangents = {key: by_seed for key, *by_seed in zip(uses, *passes, strict=True)}
    del y, passes
    for number, (layer, own) in enumerate(zip(known.layers, calls, strict=True)):
        _fill_layer(parts[number], layer, own, [cotangents[id(use)] for use in own])
        for key in {id(use) for use in own} - {id(use) for rest in calls[number + 1 :] for use in rest}:
            del cotangents[key]


def _fill_layer(
    feature: Feature, layer: Layer, uses: Sequence[Use], cotangents: Sequence[Sequence[Tensor | None]]
) -> None:
    batch, dtype, size = len(feature.g), feature.g.dtype, layer.size
    wanted = layer.weight is not None, layer.bias is not None
    g = []
    for of_uses in zip(*cotangents, strict=True):
        whole = [
            feature.g.new_zeros(use.shape) if c is None else c.to(dtype) for use, c in zip(uses, of_uses, strict=True)
        ]
        g.append(_joined([use.by_position(c, batch) for use, c in zip(uses, whole, strict=True)]))
    together = 1 if size.inputs * size.groups * size.positions > LARGE else batch
    for start in range(0, batch, together):
        some, part = slice(start, start + together), feature.part(start, start + together)
        calls = [use.part(batch, start, start + together) for use in uses]
        h = _joined([use.activations(len(part.g), *wanted).to(dtype) for use in calls])
        if part.h is None:
            write_rows(part.g.view(len(h), len(g), size.groups, size.inputs, -1), h, [one[some] for one in g])
        else:
            part.h.copy_(h[:, 0])
    if feature.h is not None:
        torch.stack([one[:, 0] for one in g], 1, out=feature.g)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    # Positions of several calls are positions of one layer.
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)
