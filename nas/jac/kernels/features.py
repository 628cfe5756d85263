"""What a few samples contribute to a kernel: each layer's features, from one forward run and gradients by outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nas.jac.kernels.layers import Factors, Feature, Rows, summed, weight_jacobian
from nas.jac.kernels.parameters import pulled
from nas.jac.kernels.record import Recorder, Use
from nas.jac.kernels.rows import rows_one_by_one, vectorised_rows
from nas.jac.kernels.survey import Layer, Survey
from nas.jac.kernels.work import Work


def features(fn: Callable[[Tensor], Tensor], known: Survey, x: Tensor, seeds: Tensor, work: Work) -> list[Feature]:
    """The features of all parameters.

    Args:
        fn: guarded function, ``(B, *in)`` to ``(B, M)``.
        known: the survey of ``fn``.
        x: ``(B, *in)``.
        seeds: ``(S, M)``, directions in the space of outputs.
        work: what the kernel needs, for the choice between rows and factors.

    Returns:
        In the same order for every ``x``.
    """
    made: list[Feature] = []
    if known.layers:
        made += _of_layers(fn, known, x, seeds, work)
    if known.others:
        if known.alone:
            rows = rows_one_by_one(fn, known.others, x, seeds)
        else:
            rows = vectorised_rows(fn, known.others, known.in_layers, x, seeds)
        made.append(Rows(rows.to(known.dtype)))
    return [summed(feature) for feature in made] if work.summed else made


def _of_layers(fn: Callable[[Tensor], Tensor], known: Survey, x: Tensor, seeds: Tensor, work: Work) -> list[Feature]:
    with Recorder() as record:
        y = fn(x)
    calls = [layer.uses(record) for layer in known.layers]
    del record
    uses = {id(use): use for own in calls for use in own}
    stacks = output_gradients(y, list(uses.values()), seeds, known)
    del y
    gradients = dict(zip(uses, stacks, strict=True))
    del stacks, uses
    made: list[Feature] = []
    for number, (layer, own) in enumerate(zip(known.layers, calls, strict=True)):
        made += _of_layer(layer, own, [gradients[id(use)] for use in own], work)
        later = {id(use) for rest in calls[number + 1 :] for use in rest}
        for use in own:
            if id(use) not in later:
                del gradients[id(use)]
        calls[number] = []
    return made


def output_gradients(y: Tensor, uses: Sequence[Use], seeds: Tensor, known: Survey) -> list[Tensor]:
    """Gradients of the outputs by what layers give. None is taken by a weight, which is what makes this cheap.

    Args:
        y: ``(B, M)``, with its tape, which is used up.
        uses: the calls of layers.
        seeds: ``(S, M)``.
        known: the survey.

    Returns:
        For each use ``(B, S, Q, T)``.
    """
    batch, count = y.shape[0], len(seeds)
    edges, stacks = [use.edge for use in uses], []
    for number, seed in enumerate(seeds):
        # One plain pass each. Batched ones (is_grads_batched) save a tenth, but not every backward function has them.
        passed = pulled(y, seed, edges, keep=number + 1 < count)
        for i, (use, gradient) in enumerate(zip(uses, passed, strict=True)):
            whole = y.new_zeros(use.shape) if gradient is None else gradient
            part = use.by_position(whole.to(known.dtype), batch)
            if number == 0:
                stacks.append(part.new_empty((batch, count, *part.shape[1:])))
            stacks[i][:, number] = part
    return stacks


def _of_layer(layer: Layer, uses: Sequence[Use], gradients: Sequence[Tensor], work: Work) -> list[Feature]:
    batch, dtype = len(gradients[0]), gradients[0].dtype
    if not layer.as_rows(work):
        activations = [use.activations(batch).to(dtype) for use in uses]
        return [Factors(_joined(activations), _joined(gradients), layer.bias is not None)]
    rows: list[Feature] = []
    if layer.weight is not None:
        parts = zip(uses, gradients, strict=True)
        rows.append(Rows(_total([_weight_rows(layer, use, g) for use, g in parts])))
    if layer.bias is not None:
        rows.append(Rows(_total([g.sum(-1) for g in gradients])))
    return rows


def _weight_rows(layer: Layer, use: Use, g: Tensor) -> Tensor:
    h = use.activations(len(g)).to(g.dtype)
    if layer.multiplies:
        return weight_jacobian(h, g, layer.size.groups)
    return (g * h.unsqueeze(1)).sum(-1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    # Positions of several calls are positions of one layer.
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


def _total(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
