"""The linear maps between two values of a network, and the order in which they are multiplied."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor

from nas.jac.errors import BudgetError
from nas.jac.plan.maps import Convolution, Dense, Scaled, eye, flat
from nas.jac.plan.steps import cannot_be_replayed, note, step
from nas.jac.plan.trace import Node, between
from nas.jac.refuse import SLOPES, WEIGHTS, check_finite

CACHED = 2**16
"""Number of entries that are read again at no cost worth saving."""


class LinearGraph:
    """The linear maps from ``start``, a value of a network, to ``stop``, a later one."""

    def __init__(self, start: Node, stop: Node) -> None:
        self.start, self.stop = start, stop
        self.order, self.is_chain = between(start, stop)
        batch = start.value.shape[0]
        widths = [node.value.numel() // batch for node in self.order]
        self.widest = max(widths)
        """Number of entries of a sample's largest value on the way: what one direction takes."""
        self.narrows = widths[-1] == min(widths)

    def vjp(self, cotangents: Tensor, stop: Node, start: Node | None = None, fresh: bool = False) -> Tensor:
        """Carry cotangents ``(B or 1, R, *out)`` of ``start`` (the output) back to ``stop``: ``(B or 1, R, *in)``.

        Those that are ``fresh`` may be overwritten.
        """
        start = start or self.stop
        if self.is_chain:
            node = start
            while node is not stop:
                node, derivative = node.edges[0]
                if fresh and isinstance(derivative, Scaled) and len(derivative.slope) in (1, len(cotangents)):
                    derivative.scale_(cotangents)  # which a product has just made: a third of the time
                else:
                    cotangents = derivative.vjp(cotangents)
                    fresh = isinstance(derivative, (Convolution, Dense)) and not torch.is_grad_enabled()
            return cotangents
        waiting = {id(start): cotangents}
        for node in reversed(self.order):
            if node is stop or id(node) not in waiting:
                continue
            arrived = waiting.pop(id(node))
            for parent, derivative in node.edges:
                share = derivative.vjp(arrived)
                waiting[id(parent)] = step(torch.add, waiting[id(parent)], share) if id(parent) in waiting else share
        return waiting[id(stop)]

    def jvp(self, tangents: Tensor, stop: Node, start: Node | None = None) -> Tensor:
        """Carry tangents ``(B or 1, R, *in)`` of ``start`` (the input) on to ``stop``: ``(B or 1, R, *out)``."""
        start = start or self.start
        known = {id(start): tangents}
        last = {id(parent): node for node in self.order for parent, _ in node.edges}
        for node in self.order:
            shares = [(parent, d.jvp(known[id(parent)])) for parent, d in node.edges if id(parent) in known]
            if shares and node is not start:
                known[id(node)] = reduce(partial(step, torch.add), (share for _, share in shares))
            for parent, _ in shares:
                if last[id(parent)] is node:
                    known.pop(id(parent), None)
            if node is stop:
                break
        return known[id(stop)]

    def cuts(self) -> list[Node]:
        """The values that every path from the input to the output goes through, from first to last."""
        if self.is_chain:
            return self.order
        place = {id(node): i for i, node in enumerate(self.order)}
        reach, found = [0] * len(self.order), []
        for i, node in enumerate(self.order):
            for parent, _ in node.edges if i else ():
                reach[place[id(parent)]] = i
        furthest = 0
        for i, node in enumerate(self.order):
            if furthest <= i:
                found.append(node)
            furthest = max(furthest, reach[i])
        return found

    def narrowest(self) -> Node:
        """Where to begin: at the cut from which all directions take the least work."""
        if self.narrows:
            return self.stop
        n, m = self.start.width, self.stop.width
        work = sum(d.work(parent.width, node.width) for node in self.order[1:] for parent, d in node.edges)
        costs = {id(self.stop): m * work, id(self.start): n * work}
        cuts = [self.stop, self.start, *self.cuts()[1:-1]]
        return min(cuts, key=lambda cut: costs.get(id(cut), cut.width * (work + m * n)))

    def multiplied(self, chunk_bytes: int | None) -> tuple[Tensor, bool]:
        """The Jacobian ``(B or 1, M, N)``, and whether it is known to be finite; None: with no budget, and unknown.

        From the narrowest value outwards: backwards from the output, forwards from the input, or both ways from a
        bottleneck in between.
        """
        cut, start, stop = self.narrowest(), self.start, self.stop
        if cut is start and start is not stop:
            return _transposed(self._carried(self.jvp, stop, start, chunk_bytes)), False
        if cut is not stop:
            after = self._carried(self.jvp, stop, cut, chunk_bytes).mT
            before = self._carried(self.vjp, start, cut, chunk_bytes)
            return step(torch.matmul, after, before), False
        first = self.order[1].edges[0][1] if self.is_chain and stop is not start else None
        if not isinstance(first, Dense) or start.value.dim() != 2:
            return self._carried(self.vjp, start, stop, chunk_bytes), False
        inner = self._carried(self.vjp, self.order[1], stop, chunk_bytes)
        finite = chunk_bytes is not None and inner.numel() > CACHED and product_is_finite(inner, first.weight)
        return first.vjp(inner), finite

    def dense(self, chunk_bytes: int) -> Tensor:
        """The Jacobian ``(B, *out, *in)``, in memory that nothing else shares; it and the output have to be finite."""
        whole, finite = self.multiplied(chunk_bytes)
        value, into = self.stop.value, self.start.value
        if len(whole) != len(value):
            whole = whole.expand(len(value), -1, -1).contiguous()
        if value.dim() != 2 or into.dim() != 2:
            whole = whole.reshape(*value.shape, *into.shape[1:])
        if not finite:
            check_finite("jacobian", whole, "the Jacobian", SLOPES)
        check_finite("output", value, "the output", WEIGHTS)
        return whole

    def _carried(
        self, carry: Callable[[Tensor, Node, Node], Tensor], to: Node, at: Node, chunk_bytes: int | None
    ) -> Tensor:
        """All unit directions of ``at`` carried ``to``, some at a time: ``(B or 1, width of at, width of to)``."""
        rows = at.width if chunk_bytes is None else self.at_once(chunk_bytes)
        if rows >= at.width and carry == self.vjp:
            return self.rows(to, at)
        units = eye(at.width, at.shape, self.start.value)
        if rows >= at.width:
            return flat(carry(units, to, at))
        cannot_be_replayed()
        blocks = [units[:, first : first + rows] for first in range(0, at.width, rows)]
        return flat(torch.cat([carry(block, to, at) for block in blocks], 1))

    def rows(self, to: Node, at: Node) -> Tensor:
        """The Jacobian of ``at`` by ``to``, backwards and in one go: ``(B or 1, width of at, width of to)``."""
        if self.is_chain and at.value.dim() == 2 and at is not to:
            before, derivative = at.edges[0]
            if isinstance(derivative, Dense):
                weight = derivative.weight.unsqueeze(0)
                carried = flat(self.vjp(weight, to, before))
                if carried.data_ptr() != weight.data_ptr():
                    return carried
                own = carried.clone()  # the memory is the weight's
                note(own.copy_, carried)
                return own
            if before is not to and isinstance(dense := before.edges[0][1], Dense):
                product = derivative.times(dense.weight)
                if product is not None:
                    return flat(self.vjp(product, to, before.edges[0][0], fresh=not torch.is_grad_enabled()))
        return flat(self.vjp(eye(at.width, at.shape, self.start.value), to, at))

    @property
    def bytes_each(self) -> int:
        """What one direction of the whole batch takes, in bytes."""
        return self.start.value.shape[0] * self.widest * self.start.value.element_size()

    def at_once(self, chunk_bytes: int) -> int:
        """How many directions of the whole batch the budget holds, at least 1."""
        if chunk_bytes < self.bytes_each:
            raise BudgetError(chunk_bytes, self.bytes_each)
        return chunk_bytes // self.bytes_each


def _transposed(stack: Tensor) -> Tensor:
    return stack.mT if torch.is_grad_enabled() else step(torch.transpose_copy, stack, 1, 2)


def product_is_finite(rows: Tensor, weight: Tensor) -> bool:
    """Whether ``rows @ weight`` must be finite, by Cauchy and Schwarz: the factors are quicker to read than it is."""
    with torch.no_grad():
        squares = [flat.dot(flat).item() for flat in (rows.flatten(), weight.flatten())]
    return math.sqrt(squares[0]) * math.sqrt(squares[1]) < torch.finfo(rows.dtype).max
