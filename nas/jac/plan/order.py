"""The linear maps between two values of a network, and the order in which they are multiplied.

From the narrowest value outwards: backwards from the output, forwards from the input, or both ways from a bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from sys import maxsize

import torch
from torch import Tensor

from nas.jac.errors import BudgetError
from nas.jac.plan.maps import Dense, LinearMap, Scaled, eye, flat, scaled
from nas.jac.plan.steps import cannot_be_replayed, step
from nas.jac.plan.trace import Node, between
from nas.jac.refuse import SLOPES, WEIGHTS, check_finite

CACHED = 2**16
"""Number of entries that are read again at no cost worth saving."""
Edges = Mapping[Node, Sequence[tuple[Node, LinearMap]]]


class LinearGraph:
    """The linear maps from ``start``, a value of a network, to ``stop``, a later one."""

    def __init__(self, start: Node, stop: Node, cut: Node | None = None) -> None:
        self.start, self.stop = start, stop
        self.order, self.is_chain = between(start, stop)
        sizes = [node.value.numel() for node in self.order]
        self.cut = cut or (stop if sizes[-1] == min(sizes) else None)
        """Where multiplying begins, if it is known."""
        self.bytes_each = max(sizes) * start.value.element_size()
        """What one direction of the whole batch takes, in bytes."""

    def vjp(self, cotangents: Tensor, stop: Node, start: Node | None = None, fresh: bool = False) -> Tensor:
        """Carry cotangents ``(B or 1, R, *out)`` of ``start`` back to ``stop``; ``fresh`` ones may be overwritten."""
        edges = {node: node.edges for node in reversed(self.order)}
        return _carried("vjp", cotangents, start or self.stop, stop, edges, fresh)

    def jvp(self, tangents: Tensor, stop: Node, start: Node | None = None) -> Tensor:
        """Carry tangents ``(B or 1, R, *in)`` of ``start`` on to ``stop``: ``(B or 1, R, *out)``."""
        edges: dict[Node, list[tuple[Node, LinearMap]]] = {node: [] for node in self.order}
        for node in self.order[1:]:
            for parent, derivative in node.edges:
                edges[parent].append((node, derivative))
        return _carried("jvp", tangents, start or self.start, stop, edges)

    def cuts(self) -> list[Node]:
        """The values that every path from the input to the output goes through, from first to last."""
        if self.is_chain:
            return self.order
        found, waiting = [], {self.stop}
        for node in reversed(self.order):
            waiting.remove(node)
            if not waiting:
                found.append(node)
            waiting.update(parent for parent, _ in node.edges)
        return found[::-1]

    def narrowest(self) -> Node:
        """Where to begin: at the cut from which all directions take the least work."""
        if self.cut is not None:
            return self.cut
        ends, whole = (self.stop, self.start), self.start.width * self.stop.width
        work = sum(max(parent.width, node.width * d.macs) for node in self.order[1:] for parent, d in node.edges)
        cuts = [*ends, *self.cuts()[1:-1]]
        return min(cuts, key=lambda cut: cut.width * (work if cut in ends else work + whole))

    def factors(self, chunk_bytes: int = maxsize) -> tuple[Tensor, Dense | None]:
        """The Jacobian ``(B or 1, M, N)``; or that of what follows a first Linear, and this."""
        cut, start, stop = self.narrowest(), self.start, self.stop
        if cut is not stop:
            columns = self._all(self.jvp, cut, stop, chunk_bytes)
            if cut is start:
                return step(torch.transpose_copy, columns, 1, 2), None
            return step(torch.matmul, columns.mT, self.rows(start, cut, chunk_bytes)), None
        first = only(start, self.order[1]) if self.is_chain and stop is not start else None
        if isinstance(first, Dense) and start.value.dim() == 2:
            return self.rows(self.order[1], stop, chunk_bytes), first
        return self.rows(start, stop, chunk_bytes), None

    def dense(self, chunk_bytes: int) -> Tensor:
        """The Jacobian ``(B, *out, *in)``, in memory that nothing else shares; it and the output have to be finite."""
        rows, first = self.factors(chunk_bytes)
        finite = first is not None and rows.numel() > CACHED and product_is_finite(rows, first.weight)
        whole, value, into = first.vjp(rows) if first else rows, self.stop.value, self.start.value
        last = self.stop.edges[0][1] if self.stop.edges else None
        if len(whole) != len(value) or (isinstance(last, Dense) and whole.data_ptr() == last.weight.data_ptr()):
            whole = whole.expand(len(value), -1, -1).clone(memory_format=torch.contiguous_format)
        if value.dim() != 2 or into.dim() != 2:
            whole = whole.reshape(*value.shape, *into.shape[1:])
        if not finite:
            check_finite("jacobian", whole, "the Jacobian", SLOPES)
        check_finite("output", value, "the output", WEIGHTS)
        return whole

    def rows(self, to: Node, at: Node, chunk_bytes: int = maxsize) -> Tensor:
        """The Jacobian of ``at`` by ``to``, backwards: ``(B or 1, width of at, width of to)``; it may be a weight."""
        whole = held(chunk_bytes, self.bytes_each) >= at.width
        if whole and at is not to and len(at.edges) == 1 and at.value.dim() == 2:
            before, last = at.edges[0]
            if isinstance(last, Dense):
                return flat(self.vjp(last.weight.unsqueeze(0), to, before))
            dense = before.edges[0][1] if before is not to and len(before.edges) == 1 else None
            product = last.times(dense.weight) if isinstance(dense, Dense) else None
            if product is not None:
                return flat(self.vjp(product, to, before.edges[0][0], fresh=not torch.is_grad_enabled()))
        return self._all(self.vjp, at, to, chunk_bytes)

    def _all(self, carry: Callable[..., Tensor], at: Node, to: Node, chunk_bytes: int) -> Tensor:
        """All unit directions of ``at`` carried ``to``, some at a time: ``(B or 1, width of at, width of to)``."""
        units, at_once = eye(at.width, at.shape, self.start.value), held(chunk_bytes, self.bytes_each)
        if at_once >= at.width:
            return flat(carry(units, to, at))
        cannot_be_replayed()
        return flat(torch.cat([carry(block, to, at) for block in units.split(at_once, 1)], 1))


def _carried(way: str, stack: Tensor, at: Node, to: Node, edges: Edges, fresh: bool = False) -> Tensor:
    """A stack carried from one value to another, along the edges that leave each value on the way."""
    waiting, made = {at: stack}, stack if fresh else None
    for node, leaving in edges.items():
        if node is to:
            break
        if (arrived := waiting.pop(node, None)) is None:
            continue
        for other, derivative in leaving:
            alone = arrived is made and len(leaving) == 1
            if alone and isinstance(derivative, Scaled) and len(derivative.slope) in (1, len(arrived)):
                # Which a product has just made: in place it takes a third of the time.
                share = scaled(arrived, derivative.slope.unsqueeze(1), in_place=True)
            else:
                share = getattr(derivative, way)(arrived)
                made = share if derivative.fresh and not torch.is_grad_enabled() else None
            waiting[other] = step(torch.add, waiting[other], share) if other in waiting else share
    return waiting[to]


def only(parent: Node, node: Node) -> LinearMap | None:
    """The derivative of a value that is made from ``parent`` alone; None of any other."""
    return node.edges[0][1] if len(node.edges) == 1 and node.edges[0][0] is parent else None


def product_is_finite(rows: Tensor, weight: Tensor) -> bool:
    """Whether ``rows @ weight`` must be finite, by Cauchy and Schwarz: the factors are quicker to read than it is."""
    with torch.no_grad():
        squares = [flat.dot(flat).item() for flat in (rows.flatten(), weight.flatten())]
    return math.sqrt(squares[0]) * math.sqrt(squares[1]) < torch.finfo(rows.dtype).max


def held(chunk_bytes: int, each: int) -> int:
    """How many directions of ``each`` bytes a budget holds: at least 1."""
    if chunk_bytes < each:
        raise BudgetError(chunk_bytes, each)
    return chunk_bytes // each


def in_parts(answer: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """``answer(*batches)``; if one direction of a batch exceeds the budget, of one half after the other."""
    try:
        return answer(*batches)
    except BudgetError:
        if len(batches[0]) == 1:
            raise
    halves = zip(*(batch.tensor_split(2) for batch in batches), strict=True)
    return torch.cat([in_parts(answer, *half) for half in halves])
