"""A kernel of pairs of samples, block by block, within a budget."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from itertools import product

import torch
from torch import Tensor

from nas.jac.errors import BudgetError, JacobianError
from nas.jac.kernels.features import WORTH_SPLITTING, add_equal, add_products, feature_sizes, features
from nas.jac.kernels.replaced import run_with
from nas.jac.kernels.survey import Survey, Work
from nas.jac.refuse import Function

AT_ONCE_BYTES = 2**26  # of samples that go together, whatever the budget: more is not faster, and takes more memory


def divide(known: Survey, work: Work, batch: int, budget: int) -> tuple[int, int, list[slice]]:
    """How many samples of ``batch`` run together, and are held, and slices of seeds; refused if none would fit."""
    itemsize, others = known.dtype.itemsize, sum(leaf.numel() for leaf in known.others)
    layers, sizes = [layer.size for layer in known.layers], feature_sizes(known, work)

    def needed(seeds: int, rows: int) -> tuple[int, ...]:
        """Bytes to make one sample's features, of these, and of their products with ``rows`` of the kernel."""
        layer = max(((seeds * s.outputs + 2 * s.inputs * s.groups) * s.positions for s in layers), default=0)
        cotangents = (seeds + 2) * sum(s.outputs * s.positions for s in layers)
        made = known.elements + cotangents + layer  # with the tape; a layer's once more by position, and its patches
        made = max(made, 2 * (seeds + 1) * (known.elements + others) if others else 0)
        kept = sum((seeds * s.outputs + s.inputs) * s.positions for s in sizes)
        at_once = rows * (2 if work.summed else seeds + 1)
        each = [(s.positions, s.positions + 2 * seeds * s.outputs) for s in sizes]
        return itemsize * made, itemsize * kept, itemsize * max(at_once if t == 1 else t * more for t, more in each)

    def least(seeds: int) -> int:
        made, kept, products = needed(seeds, seeds)
        return made + 2 * kept + products

    seeds = bisect_right(range(1, work.seeds + 1), budget, key=least)
    if seeds == 0:
        raise BudgetError(budget, least(1))
    made, kept, products = needed(seeds, WORTH_SPLITTING + seeds)
    a_sample = max(made, products) + kept
    together = max(1, min(batch, 1 + (budget - least(seeds)) // 2 // a_sample, AT_ONCE_BYTES // a_sample))
    together = -(-batch // -(-batch // together))
    held = max(1, min(batch, (budget - together * a_sample) // (kept + products)))
    return together, held, [slice(first, first + seeds) for first in range(0, work.seeds, seeds)]


def all_pairs(fn: Function, known: Survey, x1: Tensor, x2: Tensor, summed: bool, budget: int) -> Tensor:
    """The kernel ``(B1, S, B2, S)``, or ``(B1, 1, B2, 1)``, ``summed`` over seeds; symmetric if ``x2`` is ``x1``."""
    seeds, same, entries = known.units, x2 is x1, 1 if summed else len(known.units)
    work = Work(len(x1) if same else len(x1) + len(x2), len(x1) * len(x2), len(seeds), summed)
    together, held, parts = divide(known, work, max(len(x1), len(x2)), budget)
    made = partial(features, fn, known, work=work, together=together)
    kernel = seeds.new_zeros((len(x1), entries, len(x2), entries), dtype=known.dtype)
    for rows, start in product(parts, range(0, len(x1), held)):
        end = start + held
        a = made(x1[start:end], seeds[rows])
        for columns in parts:
            if (summed and rows != columns) or (same and columns.start < rows.start):
                continue  # not wanted, or mirrored
            block = kernel[start:end] if summed else kernel[start:end, rows, :, columns]
            out = block.contiguous()  # the block itself, unless seeds are split
            done = end if same and rows == columns else 0  # samples
            if done:
                add_products(out[:, :, start:end], a, a)
            for first in range(done, len(x2), together):
                b = made(x2[first : first + together], seeds[columns])
                add_products(out[:, :, first : first + together], a, b)
                del b  # before the next are made
            if out is not block:
                block.copy_(out)
            if same and rows != columns:
                kernel[:, columns, start:end, rows] = block.permute(2, 3, 0, 1)
        del a
    if same:
        mirror(kernel.flatten(2).flatten(0, 1))
    return kernel


def mirror(kernel: Tensor, step: int = 128) -> None:
    """Write the upper triangle of ``(n, n)`` over the lower one, in place, ``step`` rows at a time."""
    for start in range(0, len(kernel), step):
        stop = start + step
        kernel[stop:, start:stop] = kernel[start:stop, stop:].T
        corner = kernel[start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)


def equal_pairs(fn: Function, known: Survey, x1: Tensor, x2: Tensor, budget: int) -> Tensor:
    """The kernel of each sample of ``x1`` with the same sample of ``x2`` and no other, ``(B, S, S)``."""
    seeds, same = known.units, x2 is x1
    work = Work(len(x1) if same else 2 * len(x1), len(x1), len(seeds), summed=False)
    together, held, parts = divide(known, work, len(x1), budget)
    kernel = seeds.new_zeros((len(x1), len(seeds), len(seeds)), dtype=known.dtype)
    step = min(together, held)
    made = partial(features, fn, known, work=work, together=step)
    for rows, start in product(parts, range(0, len(x1), step)):
        some = slice(start, start + step)
        a = made(x1[some], seeds[rows])
        for columns in parts:
            b = a if same and rows == columns else made(x2[some], seeds[columns])
            for one, two in zip(a, b, strict=True):
                add_equal(kernel[some, rows, columns], one, two)
    return kernel


def by_products(fn: Function, known: Survey, x1: Tensor, x2: Tensor, summed: bool, budget: int) -> Tensor:
    """As :func:`all_pairs`: ``J(x1) (J(x2)^T e)`` for some directions ``e`` of samples at a time."""
    if known.alone:
        rule = "needs a function that torch.func can transform, with parameters in its sight"
        raise JacobianError("method", "products", rule, "use method='layerwise'")
    assert not known.layers, "surveyed without layers"
    parameters, seeds, count = known.others, known.units, len(known.units)
    values = tuple(parameter.detach() for parameter in parameters)

    def column(x: Tensor, sample: Tensor, seed: Tensor) -> Tensor:
        pull = torch.func.vjp(lambda *v: run_with(fn, parameters, v, sample.unsqueeze(0))[0], *values)[1]
        result: Tensor = torch.func.jvp(lambda *v: run_with(fn, parameters, v, x), values, pull(seed))[1]
        return result @ (seed[:, None] if summed else seeds.mT)  # (B1, 1), (B1, S)

    fixed, a_row = (known.dtype.itemsize * n for n in (2 * sum(p.numel() for p in parameters), 3 * known.elements))
    if fixed + 2 * a_row > budget:
        raise BudgetError(budget, fixed + 2 * a_row)
    rows = min(len(x1), (budget - fixed) // a_row - 1)
    together = budget // (fixed + (rows + 1) * a_row)
    entries = 1 if summed else count
    kernel = seeds.new_zeros((len(x1), entries, len(x2) * entries), dtype=known.dtype)
    for numbers in torch.arange(len(x2) * count, device=x2.device).split(together):
        b = numbers // count
        for x, out in zip(x1.split(rows), kernel.split(rows), strict=True):
            columns = torch.func.vmap(column, (None, 0, 0))(x, x2[b], seeds[numbers % count]).to(known.dtype)
            out.index_add_(2, b if summed else numbers, columns.movedim(0, 2))
    if x2 is x1:  # it is symmetric but for rounding
        mirror(kernel.flatten(0, 1))
    return kernel.unflatten(2, (-1, entries))
