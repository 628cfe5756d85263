"""Gram products of factored Jacobians, column block by column block."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from nas.jac.errors import BudgetError, JacobianError
from nas.jac.plan.maps import Dense, Reshaped, Scaled, eye, flat
from nas.jac.plan.order import LinearGraph
from nas.jac.plan.trace import Node, no_rule

CACHE_BYTES = 2**21
"""What a block may take at most, to be in the cache still when it is read: 2 MiB."""


def gram_product(a: LinearGraph, b: LinearGraph, chunk_bytes: int) -> Tensor:
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
    head_a, head_b = _head(a), _head(b)
    if head_a is None or head_b is None:
        return _by_directions(a, b, chunk_bytes)
    return _by_columns(head_a, head_b, len(a.start.value), chunk_bytes)


def pair_product(both: LinearGraph, chunk_bytes: int) -> Tensor:
    """``J_a J_b^T`` of two samples that were recorded as one batch, which takes half the calls.

    Args:
        both: Jacobians ``(2, M, N)``, unexpanded.
        chunk_bytes: budget in bytes for what is under way at once.

    Returns:
        ``(1, M, M)``.

    Raises:
        no_rule: the network does not begin with elementwise operations and a Linear.
    """
    head = _head(both)
    if head is None:
        raise no_rule("pairs of a network that does not begin with a Linear")
    return _by_columns(head.part(slice(0, 1)), head.part(slice(-1, None)), 1, chunk_bytes)


@dataclass
class Head:
    """A network as an elementwise slope (or none), a Linear, and the Jacobian of the rest.

    Attributes:
        slope: ``(B or 1, N)``; None where nothing comes before the Linear.
        weight: ``(O, N)``.
        rows: ``(B or 1, M, O)``.
    """

    slope: Tensor | None
    weight: Tensor
    rows: Tensor

    def part(self, samples: slice) -> Head:
        """That of some of the samples.

        Args:
            samples: which.

        Returns:
            Views.
        """
        return Head(None if self.slope is None else self.slope[samples], self.weight, self.rows[samples])


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
        return eye(jacobian.stop.width, jacobian.stop.shape, jacobian.start.value)
    return jacobian.rows(after, jacobian.stop)


def _by_columns(a: Head, b: Head, batch: int, chunk_bytes: int) -> Tensor:
    slope = a.slope if b.slope is None else b.slope
    if a.slope is not None and b.slope is not None:
        slope = a.slope * b.slope
    inner, n, m, k = *a.weight.shape, a.rows.shape[1], b.rows.shape[1]
    # Either the weights' own Gram, then the rows around it; or the rows' columns, then their Gram. Counted work.
    shared = b.weight.shape[0] * inner <= inner * (m + k) + m * k
    each = (inner if shared else m + k) * a.weight.element_size() * (1 if slope is None and shared else batch)
    if chunk_bytes < each:
        raise BudgetError(chunk_bytes, each)

    def product(left: Tensor, right: Tensor, slope: Tensor | None) -> Tensor:
        if not shared:
            left, right = a.rows @ left, b.rows @ right
        return (left if slope is None else left * slope.unsqueeze(1)) @ right.mT

    step = max(1, min(chunk_bytes, CACHE_BYTES) // each)
    total = product(a.weight[:, :step], b.weight[:, :step], None if slope is None else slope[:, :step])
    for i in range(step, n, step):
        block = slice(i, i + step)
        total = total + product(a.weight[:, block], b.weight[:, block], None if slope is None else slope[:, block])
    return _own((a.rows @ total @ b.rows.mT if shared else total).expand(batch, m, k))


def _by_directions(a: LinearGraph, b: LinearGraph, chunk_bytes: int) -> Tensor:
    """Rows of ``J_b`` by pulling, some at a time, and ``J_a`` times them by pushing: no second array of rows."""
    units, at_once = eye(b.stop.width, b.stop.shape, b.start.value), min(a.at_once(chunk_bytes), b.at_once(chunk_bytes))
    blocks = (units[:, first : first + at_once] for first in range(0, b.stop.width, at_once))
    columns = torch.cat([flat(a.jvp(b.vjp(block, b.start), a.stop)) for block in blocks], 1)
    return _own(columns.mT.expand(len(a.start.value), -1, -1))


def _own(result: Tensor) -> Tensor:
    """The result in memory that nothing else shares."""
    return result.contiguous() if result.stride(0) == 0 else result
