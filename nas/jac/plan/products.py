"""Gram products of factored Jacobians, column block by column block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise, starmap
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.plan.maps import Dense, Reshaped, Scaled, eye, flat
from nas.jac.plan.order import LinearGraph, held, only

CACHE_BYTES = 2**21  # what a block may take at most, to be in the cache still when it is read


class Product(NamedTuple):
    """A Jacobian as ``rows @ weight * slope``; None for what is not there."""

    weight: Tensor  # of a Linear, (O, N); or all of it, (B or 1, O, N)
    slope: Tensor | None = None  # of elementwise operations before it, (B or 1, N)
    rows: Tensor | None = None  # the Jacobian of what follows, (B or 1, M, O), or its slopes, (B or 1, O, 1)
    times: Callable[[Tensor, Tensor], Tensor] = torch.matmul  # or torch.mul, for slopes


def gram_product(a: LinearGraph, b: LinearGraph, chunk_bytes: int, stacks: int = 1) -> Tensor:
    """``J_a J_b^T`` for each sample, ``(B, M, M')``: by columns where both are products, else by directions.

    ``stacks``: how many sets of directions are under way at once.
    """
    if a.start.value.shape != b.start.value.shape:
        shapes = f"{tuple(a.start.value.shape)}, {tuple(b.start.value.shape)}"
        raise JacobianError("inputs", shapes, "must have the same shape", "pass batches of one size")
    batch, one = len(a.start.value), _product(a, chunk_bytes // 2)
    other = one if b is a else _product(b, chunk_bytes // 2)
    if one is not None and other is not None:
        return _by_columns(one, other, batch, chunk_bytes)
    # Rows of J_b, some at a time, and J_a applied to them: no second array of rows.
    at_once = max(1, held(chunk_bytes, max(a.bytes_each, b.bytes_each)) // stacks)
    blocks = eye(b.stop.width, b.stop.shape, b.start.value).split(at_once, 1)
    columns = torch.cat([flat(a.jvp(b.vjp(block, b.start), a.stop)) for block in blocks], 1)
    return columns.mT.expand(batch, -1, -1).contiguous()


def pair_product(both: LinearGraph, chunk_bytes: int) -> Tensor | None:
    """``J_a J_b^T`` of the halves of a batch, ``(B, M, M)``; None if that takes too much memory."""
    product = _product(both, chunk_bytes)
    if product is None:
        return None
    weight, slope, rows, times = product
    weights = (weight, weight) if weight.dim() == 2 else _halves(weight)
    one, other = map(Product, weights, _halves(slope), _halves(rows), (times, times))
    return _by_columns(one, other, len(both.start.value) // 2, chunk_bytes)


def _halves(part: Tensor | None) -> Sequence[Any]:
    """Of a batch; what is the same for all samples is in both."""
    return (part, part) if part is None or part.shape[0] == 1 else part.chunk(2)


def _product(jacobian: LinearGraph, chunk_bytes: int) -> Product | None:
    """Around the Linear that the network begins with; without one all rows, or None if they do not fit."""
    slope, stop = None, jacobian.stop
    for parent, node in pairwise(jacobian.cuts()):
        derivative = only(parent, node)
        if isinstance(derivative, Dense) and node.value.dim() == 2:
            last = only(node, stop)
            if isinstance(last, Scaled) and stop.value.dim() == 2:
                return Product(derivative.weight, slope, last.slope.unsqueeze(2), torch.mul)
            return Product(derivative.weight, slope, None if node is stop else jacobian.rows(node, stop))
        if isinstance(derivative, Scaled):
            slope = _times(slope, derivative.slope.flatten(1))
        elif not isinstance(derivative, Reshaped):
            break
    if stop.width * jacobian.bytes_each > chunk_bytes:
        return None
    return Product(jacobian.rows(jacobian.start, stop))


def _times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b


def _by_columns(a: Product, b: Product, batch: int, chunk_bytes: int) -> Tensor:
    slope, (inner, n) = _times(a.slope, b.slope), a.weight.shape[-2:]
    slope = slope if slope is None or batch == 1 else slope.unsqueeze(1)
    m = inner if a.rows is None else a.rows.shape[1]
    k = inner if b.rows is None else b.rows.shape[1]
    # Either the weights' own Gram, then what is around it; or that times columns, then their Gram. Counted work.
    late = inner * b.weight.shape[-2] <= inner * (m + k) + m * k
    each = (inner if late else m + k) * a.weight.element_size() * (1 if slope is None and late else batch)
    at_once = held(min(chunk_bytes, max(CACHE_BYTES, each)), each)

    def product(left: Tensor, right: Tensor, slope: Tensor | None = None) -> Tensor:
        if not late:
            left = left if a.rows is None else a.times(a.rows, left)
            right = right if b.rows is None else b.times(b.rows, right)
        return (left if slope is None else left * slope) @ right.mT

    parts = [a.weight, b.weight] if slope is None else [a.weight, b.weight, slope]
    blocks = [parts] if n <= at_once else zip(*(part.split(at_once, -1) for part in parts), strict=True)
    total = reduce(torch.add, starmap(product, blocks))
    if late:
        total = total if a.rows is None else a.times(a.rows, total)
        total = total if b.rows is None else b.times(total, b.rows.mT)
    return total.expand(batch, -1, -1).contiguous()  # memory that nothing else shares
