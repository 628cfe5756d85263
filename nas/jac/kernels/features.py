"""What some samples give to a kernel: the feature of each layer, and of all parameters that are in none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.jac.kernels.layers import Feature, Work, weight_jacobian
from nas.jac.kernels.record import Recorder, Use, vjp
from nas.jac.kernels.replaced import rows_one_by_one, vectorised_rows
from nas.jac.kernels.survey import Layer, Survey
from nas.jac.watch import Function


def features(fn: Function, known: Survey, x: Tensor, seeds: Tensor, work: Work, together: int) -> list[Feature]:
    """The features of all parameters for seeds ``(S, M)``, made for ``together`` samples at a time."""
    if len(x) <= together:
        return _made(fn, known, x, seeds, work)
    whole: list[Feature] = []
    for start in range(0, len(x), together):
        made = _made(fn, known, x[start : start + together], seeds, work)
        whole = whole or [feature.room(len(x)) for feature in made]
        for feature, some in zip(whole, made, strict=True):
            feature.part(start, start + together).copy_(some)
    return whole


def _made(fn: Function, known: Survey, x: Tensor, seeds: Tensor, work: Work) -> list[Feature]:
    made = _of_layers(fn, known, x, seeds, work) if known.layers else []
    if known.others:
        if known.alone:
            rows = rows_one_by_one(fn, known.others, x, seeds)
        else:
            rows = vectorised_rows(fn, known.others, known.in_layers, x, seeds)
        made.append(Feature(rows.to(known.dtype).unsqueeze(-1)))
    return [feature.summed() for feature in made] if work.summed else made


def _of_layers(fn: Function, known: Survey, x: Tensor, seeds: Tensor, work: Work) -> list[Feature]:
    with Recorder() as record:
        y = fn(x)
    calls = [layer.uses(record) for layer in known.layers]
    uses = {id(use): use for own in calls for use in own}
    del record
    edges = [use.edge for use in uses.values()]
    # A plain pass for each seed, by no weight, which is what makes them cheap. Batched ones (is_grads_batched) are no
    # faster on a CPU, and not every backward function has them.
    passes = [vjp(y, seed, edges, keep=number + 1 < len(seeds)) for number, seed in enumerate(seeds)]
    del y
    cotangents = {key: list(by_seed) for key, *by_seed in zip(uses, *passes, strict=True)}
    del passes
    made = []
    for number, (layer, own) in enumerate(zip(known.layers, calls, strict=True)):
        made.append(_of_layer(layer, own, [cotangents[id(use)] for use in own], len(x), known.dtype, work))
        later = {id(use) for rest in calls[number + 1 :] for use in rest}
        for key in {id(use) for use in own} - later:
            del cotangents[key]
    return made


def _of_layer(
    layer: Layer,
    uses: Sequence[Use],
    cotangents: Sequence[Sequence[Tensor | None]],
    batch: int,
    dtype: torch.dtype,
    work: Work,
) -> Feature:
    wanted = layer.weight is not None, layer.bias is not None
    h = _joined([use.activations(batch, *wanted).to(dtype) for use in uses])
    g = _joined([_stacked(use, by_seed, batch, dtype) for use, by_seed in zip(uses, cotangents, strict=True)])
    if layer.as_rows(work):
        return Feature(weight_jacobian(h, g).unsqueeze(-1))
    return Feature(g[:, 0], h[:, 0])


def _stacked(use: Use, cotangents: Sequence[Tensor | None], batch: int, dtype: torch.dtype) -> Tensor:
    """``(B, G, S, O, T)``."""
    nothing = use.arguments["input"].new_zeros(()).expand(use.shape)
    parts = [(nothing if one is None else one).to(dtype) for one in cotangents]
    return torch.stack([use.by_position(part, batch) for part in parts], 2)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    # Positions of several calls are positions of one layer.
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)
