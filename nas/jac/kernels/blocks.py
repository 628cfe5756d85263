"""A kernel of pairs of samples, block by block, within a budget."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nas.jac.errors import BudgetError, JacobianError
from nas.jac.kernels.features import Feature, add_equal, add_product, features, product_elements
from nas.jac.kernels.replaced import detached, run_with
from nas.jac.kernels.survey import Survey, Work
from nas.jac.watch import Function

Made = Callable[[Tensor, Tensor], list[Feature]]
AT_ONCE_BYTES = 2**26
"""Samples go together up to this much work, whatever the budget: more is not faster, and takes more memory."""
WORTH_SPLITTING = 128
"""Rows of the kernel below which a product is not split: small ones take longer than a large one."""


@dataclass(frozen=True)
class Division:
    """How a budget is spent: samples that run ``together``, are ``held``, and are multiplied (``tile``); seeds."""

    together: int
    held: int
    tile: int
    seeds: int


def divide(known: Survey, work: Work, batch: int, chunk_bytes: int) -> Division:
    """Divide a batch, or the larger of two; refused if the budget does not hold one output entry of one sample."""
    itemsize = known.dtype.itemsize
    others = sum(leaf.numel() for leaf in known.others)
    layers = [(layer.size, layer.as_rows(work)) for layer in known.layers]
    seen = [size.inputs * size.groups * size.positions for size, _ in layers]
    given = [size.outputs * size.positions for size, _ in layers]

    def kept(seeds: int) -> int:
        """Of one sample: the entries of its features."""
        each = zip(layers, seen, given, strict=True)
        return seeds * others + sum(seeds * s.outputs * s.inputs if rows else seeds * g + h for (s, rows), h, g in each)

    def made(seeds: int) -> int:
        """Of one sample: tape, cotangents, and those of one layer side by side, with its padded input and patches."""
        layer = max((seeds * g + 2 * h for h, g in zip(seen, given, strict=True)), default=0)
        by_layers = known.elements + (seeds + 2) * sum(given) + layer
        return max(by_layers, 2 * (seeds + 1) * (known.elements + others) if others else 0)

    def multiplied(samples: int, seeds: int) -> int:
        return max((product_elements(s, seeds, samples, work.summed) for s, rows in layers if not rows), default=0)

    def least(seeds: int) -> int:
        return itemsize * (made(seeds) + 2 * kept(seeds) + multiplied(1, seeds))

    seeds = bisect_right(range(1, work.seeds + 1), chunk_bytes, key=least)
    if seeds == 0:
        raise BudgetError(chunk_bytes, least(1))
    a_feature, a_sample = itemsize * kept(seeds), itemsize * (made(seeds) + kept(seeds))
    together = max(1, min(batch, 1 + (chunk_bytes - least(seeds)) // 2 // a_sample, AT_ONCE_BYTES // a_sample))
    together = -(-batch // -(-batch // together))
    left = chunk_bytes - together * a_sample
    limit = (left - a_feature) // 4
    tile = max(1, bisect_right(range(1, batch + 1), limit, key=lambda n: itemsize * multiplied(n, seeds)))
    held = min(batch, (left - itemsize * multiplied(tile, seeds)) // a_feature)
    tile = min(tile, max(-(-held // 4), -(-WORTH_SPLITTING // (1 if work.summed else seeds))))
    return Division(together, held, tile, seeds)


def all_pairs(
    fn: Function, known: Survey, x1: Tensor, x2: Tensor | None, seeds: Tensor, summed: bool, chunk_bytes: int
) -> Tensor:
    """The kernel ``(B1 * S, B2 * S)`` for seeds ``(S, M)``, or ``(B1, B2)``, ``summed`` over equal seeds.

    ``x2`` is None for ``x1``, which takes half the work and gives an exactly symmetric kernel.
    """
    other = x1 if x2 is None else x2
    work = Work(len(x1) + (0 if x2 is None else len(x2)), len(x1) * len(other), len(seeds), summed)
    how = divide(known, work, max(len(x1), len(other)), chunk_bytes)
    entries = 1 if summed else len(seeds)
    kernel = seeds.new_zeros((len(x1), entries, len(other), entries), dtype=known.dtype)
    whole, parts = kernel.flatten(2).flatten(0, 1), seeds.split(how.seeds)
    made = partial(features, fn, known, work=work, together=how.together)
    for i, left in enumerate(parts):
        for j, right in enumerate(parts):
            same = x2 is None and i == j
            if (summed and i != j) or (x2 is None and j < i):
                continue
            if summed or len(parts) == 1:
                _add_pairs(whole, made, (x1, left), (other, right), how, same)
                continue
            block = whole.new_zeros(len(x1) * len(left), len(other) * len(right))
            _add_pairs(block, made, (x1, left), (other, right), how, same)
            rows, columns = (slice(k * how.seeds, (k + 1) * how.seeds) for k in (i, j))
            kernel[:, rows, :, columns] = block.view(len(x1), len(left), len(other), len(right))
            if x2 is None and not same:
                kernel[:, columns, :, rows] = kernel[:, rows, :, columns].permute(2, 3, 0, 1)
    if x2 is None:
        mirror(whole)
    return whole


def _add_pairs(
    out: Tensor, made: Made, one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], how: Division, same: bool
) -> None:
    """Add the products of the features of two batches with seeds; above the diagonal only if they are the ``same``."""
    (x1, seeds1), (x2, seeds2) = one, two
    rows, columns = out.shape[0] // len(x1), out.shape[1] // len(x2)
    for start in range(0, len(x1), how.held):
        end = start + how.held
        held, strip = made(x1[start:end], seeds1), out[start * rows : end * rows]
        if same:
            _add_tiles(strip[:, start * rows : end * rows], held, held, how.tile)
        for first in range(end if same else 0, len(x2), how.together):
            last = first + how.together
            streamed = made(x2[first:last], seeds2)
            _add_tiles(strip[:, first * columns : last * columns], held, streamed, how.tile)
            del streamed  # before the next are made
        del held


def _add_tiles(out: Tensor, a: Sequence[Feature], b: Sequence[Feature], tile: int) -> None:
    n1, n2 = len(a[0].g), len(b[0].g)
    rows, columns = len(out) // n1, out.shape[1] // n2
    for i in range(0, n1, tile):
        for j in range(i if a is b else 0, n2, tile):
            part = out[i * rows : (i + tile) * rows, j * columns : (j + tile) * columns]
            for one, two in zip(a, b, strict=True):
                add_product(part, one.part(i, i + tile), two.part(j, j + tile))


def mirror(kernel: Tensor, step: int = 128) -> None:
    """Write the upper triangle of ``(n, n)`` over the lower one, in place, ``step`` rows at a time."""
    for start in range(0, len(kernel), step):
        stop = start + step
        kernel[stop:, start:stop] = kernel[start:stop, stop:].T
        corner = kernel[start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)


def equal_pairs(fn: Function, known: Survey, x1: Tensor, x2: Tensor, seeds: Tensor, chunk_bytes: int) -> Tensor:
    """The kernel of each sample of ``x1`` with the same sample of ``x2`` and no other, ``(B, S, S)``."""
    work = Work(2 * len(x1), len(x1), len(seeds), summed=False)
    how = divide(known, work, len(x1), chunk_bytes)
    kernel = seeds.new_zeros((len(x1), len(seeds), len(seeds)), dtype=known.dtype)
    step, parts = min(how.together, how.tile), seeds.split(how.seeds)
    for start in range(0, len(x1), step):
        some = slice(start, start + step)
        for rows, left in zip(kernel[some].split(how.seeds, 1), parts, strict=True):
            a = features(fn, known, x1[some], left, work, step)
            for block, right in zip(rows.split(how.seeds, 2), parts, strict=True):
                b = a if x2 is x1 and right is left else features(fn, known, x2[some], right, work, step)
                for one, two in zip(a, b, strict=True):
                    add_equal(block, one, two)
    return kernel


def by_products(
    fn: Function, known: Survey, x1: Tensor, x2: Tensor, seeds: Tensor, summed: bool, chunk_bytes: int
) -> Tensor:
    """As :func:`all_pairs`: ``J(x1) (J(x2)^T e)`` for some directions ``e`` of samples at a time."""
    if known.alone:
        rule = "needs a function that torch.func can transform, with parameters in its sight"
        raise JacobianError("method", "products", rule, "use method='layerwise'")
    assert not known.layers, "surveyed without layers"
    parameters, count = known.others, len(seeds)
    values = detached(parameters)

    def column(x: Tensor, sample: Tensor, seed: Tensor) -> Tensor:
        pull = torch.func.vjp(lambda *v: run_with(fn, parameters, v, sample.unsqueeze(0))[0], *values)[1]
        result: Tensor = torch.func.jvp(lambda *v: run_with(fn, parameters, v, x), values, pull(seed))[1]
        return result @ seeds.mT  # (B1, S)

    fixed, a_row = (known.dtype.itemsize * n for n in (2 * sum(p.numel() for p in parameters), 3 * known.elements))
    if fixed + 2 * a_row > chunk_bytes:
        raise BudgetError(chunk_bytes, fixed + 2 * a_row)
    rows = min(len(x1), (chunk_bytes - fixed) // a_row - 1)
    together = chunk_bytes // (fixed + (rows + 1) * a_row)
    entries = 1 if summed else count
    kernel = seeds.new_zeros((len(x1), entries, len(x2), entries), dtype=known.dtype)
    for numbers in torch.arange(len(x2) * count, device=x2.device).split(together):
        b, n = numbers // count, numbers % count
        for start in range(0, len(x1), rows):
            part = slice(start, start + rows)
            columns = torch.func.vmap(column, (None, 0, 0))(x1[part], x2[b], seeds[n]).to(known.dtype)
            if summed:
                equal = columns.gather(2, n[:, None, None].expand(-1, columns.shape[1], 1))
                kernel[part, 0, :, 0].index_add_(1, b, equal[..., 0].mT)
            else:
                kernel[part, :, b, n] = columns.movedim(0, -1)
    return kernel.flatten(2).flatten(0, 1)
