"""Gram products of factored Jacobians, column block by column block."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nas.jac.errors import BudgetError, JacobianError
from nas.jac.maps import Dense, Rectified, Reshaped, Scaled, eye, flat
from nas.jac.record import Node

if TYPE_CHECKING:
    from nas.jac.factored import FactoredJacobian

CACHE_BYTES = 2**21
"""What a block may take at most, to be in the cache still when it is read: 2 MiB."""


def gram_product(a: FactoredJacobian, b: FactoredJacobian, chunk_bytes: int) -> Tensor:
    """``J_a J_b^T`` for each sample.

    Where both networks begin with elementwise operations and a Linear, columns of the Jacobians (one an input) are
    made in blocks of inputs, multiplied and forgotten. Otherwise rows of ``J_b`` are made in blocks of outputs, and
    ``J_a`` is applied to them (Jacobian-vector products of vector-Jacobian products).

    Args:
        a: Jacobians ``(B, M, N)``, unexpanded.
        b: Jacobians ``(B, M', N)``.
        chunk_bytes: budget in bytes for what is under way at once.

    Returns:
        ``(B, M, M')``.

    Raises:
        JacobianError: their inputs or batches differ.
    """
    if a.start.value.shape != b.start.value.shape:
        shapes = f"{tuple(a.start.value.shape)}, {tuple(b.start.value.shape)}"
        raise JacobianError("inputs", shapes, "must have the same shape", "pass batches of one size")
    heads = _head(a), _head(b)
    if heads[0] is not None and heads[1] is not None:
        return _by_columns(a, b, heads[0], heads[1], chunk_bytes)
    return _by_directions(a, b, chunk_bytes)


class Head:
    """What a network begins with: an elementwise slope (or none) and a Linear.

    Args:
        slope: ``(B or 1, N)``; 1 where nothing comes before the Linear.
        weight: ``(O, N)``.
        after: the Linear's output.
    """

    def __init__(self, slope: Tensor | None, weight: Tensor, after: Node) -> None:
        self.slope, self.weight, self.after = slope, weight, after


def _head(jacobian: FactoredJacobian) -> Head | None:
    slope: Tensor | None = None
    cuts = jacobian.cuts()
    for before, node in pairwise(cuts):
        if len(node.edges) != 1 or node.edges[0][0] is not before:
            return None
        derivative = node.edges[0][1]
        if isinstance(derivative, Dense) and len(node.shape) == 1:
            return Head(slope, derivative.weight, node)
        if isinstance(derivative, (Scaled, Rectified)):
            own = derivative.slope.flatten(1)
            slope = own if slope is None else slope * own
        elif not isinstance(derivative, Reshaped):
            return None
    return None


def _by_columns(a: FactoredJacobian, b: FactoredJacobian, head_a: Head, head_b: Head, chunk_bytes: int) -> Tensor:
    batch, n, like = len(a.start.value), a.start.width, a.start.value
    rows = [_rows(a, head_a), _rows(b, head_b)]
    slope = head_a.slope if head_b.slope is None else head_b.slope
    if head_a.slope is not None and head_b.slope is not None:
        slope = head_a.slope * head_b.slope
    inner, m, k = head_a.weight.shape[0], rows[0].shape[1], rows[1].shape[1]
    # Either the weights' own Gram, then the rows around it; or the rows' columns, then their Gram. Counted work.
    shared = head_b.weight.shape[0] * inner <= inner * (m + k) + m * k
    each = (inner if shared else m + k) * like.element_size() * (1 if slope is None and shared else batch)
    if chunk_bytes < each:
        raise BudgetError(chunk_bytes, each)
    step = max(1, min(chunk_bytes, CACHE_BYTES) // each)
    total: Tensor | float = 0.0
    for first in range(0, n, step):
        block = slice(first, first + step)
        left, right = head_a.weight[:, block], head_b.weight[:, block]
        if not shared:
            left, right = rows[0] @ left, rows[1] @ right
        if slope is not None:
            left = left * slope[:, None, block]
        total = total + left @ right.mT
    assert isinstance(total, Tensor)
    if shared:
        total = rows[0] @ total @ rows[1].mT
    return total.expand(batch, m, k)


def _rows(jacobian: FactoredJacobian, head: Head) -> Tensor:
    """What comes after the Linear, ``(B or 1, M, O)``."""
    if head.after is jacobian.stop:
        return eye(jacobian.stop.width, jacobian.stop.shape, jacobian.start.value)
    return jacobian.rows(head.after, jacobian.stop)


def _by_directions(a: FactoredJacobian, b: FactoredJacobian, chunk_bytes: int) -> Tensor:
    """Rows of ``J_b`` by pulling, some at a time, and ``J_a`` times them by pushing: no second array of rows."""
    units, at_once = eye(b.stop.width, b.stop.shape, b.start.value), min(a.at_once(chunk_bytes), b.at_once(chunk_bytes))
    blocks = (units[:, first : first + at_once] for first in range(0, b.stop.width, at_once))
    columns = torch.cat([flat(a.push(b.pull(block, b.start), a.stop)) for block in blocks], 1)
    return columns.mT.expand(len(a.start.value), -1, -1)
