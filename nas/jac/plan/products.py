"""Gram products of factored Jacobians, column block by column block."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from nas.jac.errors import BudgetError, JacobianError
from nas.jac.plan.maps import Dense, Reshaped, Scaled, eye, flat
from nas.jac.plan.order import LinearGraph
from nas.jac.plan.trace import Node

CACHE_BYTES = 2**21
"""What a block may take at most, to be in the cache still when it is read: 2 MiB."""


class Head(NamedTuple):
    """A network that begins with elementwise operations and a Linear: slope, weight, and the rest's Jacobian."""

    slope: Tensor | None
    """``(B or 1, N)``; None where nothing comes before the Linear."""
    weight: Tensor
    """``(O, N)``."""
    rows: Tensor
    """``(B or 1, M, O)``."""

    def part(self, samples: slice) -> Head:
        """That of some of the samples."""
        return Head(None if self.slope is None else self.slope[samples], self.weight, self.rows[samples])


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
    return _own(columns.mT, batch)


def pair_product(both: LinearGraph, chunk_bytes: int) -> Tensor | None:
    """``J_a J_b^T`` of the halves of a batch, ``(B, M, M)``; None without a head if both Jacobians do not fit."""
    head, batch = _head(both), len(both.start.value) // 2
    first, second = slice(batch), slice(-batch, None)  # which take what is the same for all samples twice
    if head is not None:
        return _by_columns(head.part(first), head.part(second), batch, chunk_bytes)
    if both.stop.width * both.bytes_each > chunk_bytes:
        return None
    rows = _rows(both, both.start)
    return _own(rows[first] @ rows[second].mT, batch)


def _head(jacobian: LinearGraph) -> Head | None:
    slope: Tensor | None = None
    for before, node in pairwise(jacobian.cuts()):
        if len(node.edges) != 1 or node.edges[0][0] is not before:
            return None
        derivative = node.edges[0][1]
        if isinstance(derivative, Dense) and node.value.dim() == 2:
            return Head(slope, derivative.weight, _rows(jacobian, node))
        if isinstance(derivative, Scaled):
            own = derivative.slope.flatten(1)
            slope = own if slope is None else slope * own
        elif not isinstance(derivative, Reshaped):
            return None
    return None


def _rows(jacobian: LinearGraph, after: Node) -> Tensor:
    if after is jacobian.stop:
        return eye(after.width, after.shape, after.value).flatten(2)
    return jacobian.rows(after, jacobian.stop)


def _by_columns(a: Head, b: Head, batch: int, chunk_bytes: int) -> Tensor:
    slope = b.slope if a.slope is None else a.slope if b.slope is None else a.slope * b.slope
    inner, n, m, k = *a.weight.shape, a.rows.shape[1], b.rows.shape[1]
    # Either the weights' own Gram, then the rows around it; or the rows' columns, then their Gram. Counted work.
    shared = b.weight.shape[0] * inner <= inner * (m + k) + m * k
    each = (inner if shared else m + k) * a.weight.element_size() * (1 if slope is None and shared else batch)
    if chunk_bytes < each:
        raise BudgetError(chunk_bytes, each)
    if slope is not None and batch > 1:
        slope = slope.unsqueeze(1)

    def product(left: Tensor, right: Tensor, slope: Tensor | None) -> Tensor:
        if not shared:
            left, right = a.rows @ left, b.rows @ right
        return (left if slope is None else left * slope) @ right.mT

    step = max(1, min(chunk_bytes, CACHE_BYTES) // each)
    if step >= n:
        total = product(a.weight, b.weight, slope)
    else:
        blocks = [slice(first, first + step) for first in range(0, n, step)]
        parts = (product(a.weight[:, i], b.weight[:, i], None if slope is None else slope[..., i]) for i in blocks)
        total = sum(parts, next(parts))
    return _own(a.rows @ total @ b.rows.mT if shared else total, batch)


def _own(product: Tensor, batch: int) -> Tensor:
    """A product for each sample, in memory that nothing else shares."""
    return product if len(product) == batch else product.expand(batch, -1, -1).contiguous()
