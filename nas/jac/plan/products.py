"""Gram products of factored Jacobians, column block by column block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.jac.errors import BudgetError, JacobianError
from nas.jac.plan.maps import Dense, Reshaped, Scaled, eye, flat
from nas.jac.plan.order import LinearGraph

CACHE_BYTES = 2**21  # what a block may take at most, to be in the cache still when it is read


class Head(NamedTuple):
    """A network of elementwise operations, a Linear, anything, elementwise operations; None for what is not there."""

    weight: Tensor  # (O, N)
    before: Tensor | None  # the first slope, (B or 1, N)
    rows: Tensor | None  # the Jacobian of what comes between, (B or 1, M, O)
    after: Tensor | None  # the last slope, (B or 1, M, 1)


def gram_product(a: LinearGraph, b: LinearGraph, chunk_bytes: int) -> Tensor:
    """``J_a J_b^T`` for each sample, ``(B, M, M')``: by columns where both have a head, else by directions."""
    if a.start.value.shape != b.start.value.shape:
        shapes = f"{tuple(a.start.value.shape)}, {tuple(b.start.value.shape)}"
        raise JacobianError("inputs", shapes, "must have the same shape", "pass batches of one size")
    head_a, head_b, batch = _head(a), _head(b), len(a.start.value)
    if head_a is not None and head_b is not None:
        return _by_columns(head_a, head_b, batch, chunk_bytes)
    # Rows of J_b, some at a time, and J_a applied to them: no second array of rows.
    units, at_once = eye(b.stop.width, b.stop.shape, b.start.value), min(a.at_once(chunk_bytes), b.at_once(chunk_bytes))
    blocks = (units[:, first : first + at_once] for first in range(0, b.stop.width, at_once))
    columns = torch.cat([flat(a.jvp(b.vjp(block, b.start), a.stop)) for block in blocks], 1)
    return columns.mT.expand(batch, -1, -1).contiguous()


def pair_product(both: LinearGraph, chunk_bytes: int) -> Tensor | None:
    """``J_a J_b^T`` of the halves of a batch, ``(B, M, M)``; None without a head if both Jacobians do not fit."""
    head, batch = _head(both), len(both.start.value) // 2
    if head is not None:
        (before1, before2), (rows1, rows2), (after1, after2) = map(_halves, (head.before, head.rows, head.after))
        first, second = Head(head.weight, before1, rows1, after1), Head(head.weight, before2, rows2, after2)
        return _by_columns(first, second, batch, chunk_bytes)
    if both.stop.width * both.bytes_each > chunk_bytes:
        return None
    rows1, rows2 = _halves(both.rows(both.start, both.stop))
    return (rows1 @ rows2.mT).expand(batch, -1, -1).contiguous()


def _halves(samples: Tensor | None) -> Sequence[Any]:
    """Those of either half of a batch; what is the same for all samples is in both."""
    return (samples, samples) if samples is None or len(samples) == 1 else samples.chunk(2)


def _head(jacobian: LinearGraph) -> Head | None:
    stop, before, after = jacobian.stop, None, None
    while len(stop.edges) == 1 and isinstance(stop.edges[0][1], Scaled) and stop.value.dim() == 2:
        after = _times(after, stop.edges[0][1].slope.unsqueeze(2))
        stop = stop.edges[0][0]
    for parent, node in pairwise(jacobian.cuts()):
        if len(node.edges) != 1 or node.edges[0][0] is not parent:
            return None
        derivative = node.edges[0][1]
        if isinstance(derivative, Dense) and node.value.dim() == 2:
            return Head(derivative.weight, before, None if node is stop else jacobian.rows(node, stop), after)
        if isinstance(derivative, Scaled):
            before = _times(before, derivative.slope.flatten(1))
        elif not isinstance(derivative, Reshaped):
            return None
    return None


def _times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b


def _by_columns(a: Head, b: Head, batch: int, chunk_bytes: int) -> Tensor:
    slope = _times(a.before, b.before)
    inner, n = a.weight.shape
    m, k = (head.weight.shape[0] if head.rows is None else head.rows.shape[1] for head in (a, b))
    # Either the weights' own Gram, then the rows around it; or the rows' columns, then their Gram. Counted work.
    shared = b.weight.shape[0] * inner <= inner * (m + k) + m * k
    each = (inner if shared else m + k) * a.weight.element_size() * (1 if slope is None and shared else batch)
    if chunk_bytes < each:
        raise BudgetError(chunk_bytes, each)
    if slope is not None and batch > 1:
        slope = slope.unsqueeze(1)

    def product(left: Tensor, right: Tensor, slope: Tensor | None) -> Tensor:
        if not shared:
            left = left if a.rows is None else a.rows @ left
            right = right if b.rows is None else b.rows @ right
        return (left if slope is None else left * slope) @ right.mT

    step = max(1, min(chunk_bytes, CACHE_BYTES) // each)
    if step >= n:
        total = product(a.weight, b.weight, slope)
    else:
        blocks = [slice(first, first + step) for first in range(0, n, step)]
        parts = (product(a.weight[:, i], b.weight[:, i], None if slope is None else slope[..., i]) for i in blocks)
        total = sum(parts, next(parts))
    if shared:
        total = total if a.rows is None else a.rows @ total
        total = total if b.rows is None else total @ b.rows.mT
    total = total if a.after is None else total * a.after
    total = total if b.after is None else total * b.after.mT
    if total.dim() == 3 and len(total) == batch:
        return total
    return total.expand(batch, -1, -1).contiguous()  # memory that nothing else shares
