"""A recorded network as a graph of linear maps: directions carried through it, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.jac.errors import BudgetError
from nas.jac.plan.maps import Dense, eye, flat
from nas.jac.plan.trace import Node, between


class LinearGraph:
    """The linear maps from one value of a network to a later one.

    Args:
        start: the network's input.
        stop: its output.
    """

    def __init__(self, start: Node, stop: Node) -> None:
        self.start, self.stop = start, stop
        self.order, self.is_chain = between(start, stop)
        batch = start.value.shape[0]
        widths = [node.value.numel() // batch for node in self.order]
        self.widest = max(widths)
        """Number of entries of a sample's largest value on the way: what one direction takes."""
        self._taped = torch.is_grad_enabled()
        self.narrows = widths[-1] == min(widths)

    def vjp(self, cotangents: Tensor, stop: Node, start: Node | None = None) -> Tensor:
        """Carry cotangents back from ``start`` (the output when left out) to ``stop``.

        Args:
            cotangents: ``(B or 1, R, *out)``.
            stop: the value to arrive at; every path goes through it.
            start: where they are given.

        Returns:
            ``(B or 1, R, *in)``.
        """
        start = start or self.stop
        if self.is_chain:
            node = start
            while node is not stop:
                node, derivative = node.edges[0]
                cotangents = derivative.vjp(cotangents)
            return cotangents
        waiting = {id(start): cotangents}
        for node in reversed(self.order):
            if node is stop or id(node) not in waiting:
                continue
            arrived = waiting.pop(id(node))
            for parent, derivative in node.edges:
                share = derivative.vjp(arrived)
                waiting[id(parent)] = waiting[id(parent)] + share if id(parent) in waiting else share
        return waiting[id(stop)]

    def jvp(self, tangents: Tensor, stop: Node, start: Node | None = None) -> Tensor:
        """Carry tangents forwards from ``start`` (the input when left out) to ``stop``.

        Args:
            tangents: ``(B or 1, R, *in)``.
            stop: the value to arrive at.
            start: where they are given; every path goes through it.

        Returns:
            ``(B or 1, R, *out)``.
        """
        start = start or self.start
        known = {id(start): tangents}
        last = {id(parent): node for node in self.order for parent, _ in node.edges}
        for node in self.order:
            shares = [(parent, d.jvp(known[id(parent)])) for parent, d in node.edges if id(parent) in known]
            if shares and node is not start:
                known[id(node)] = sum((share for _, share in shares[1:]), shares[0][1])
            for parent, _ in shares:
                if last[id(parent)] is node:
                    known.pop(id(parent), None)
            if node is stop:
                break
        return known[id(stop)]

    def cuts(self) -> list[Node]:
        """The values that every path from the input to the output goes through, in order.

        Returns:
            Nodes; the first is the input, the last the output.
        """
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
        n, m = self.start.width, self.stop.width
        work = sum(d.work(parent.width, node.width) for node in self.order[1:] for parent, d in node.edges)
        costs = {id(self.stop): m * work, id(self.start): n * work}
        cuts = [self.stop, self.start, *self.cuts()[1:-1]]
        return min(cuts, key=lambda cut: costs.get(id(cut), cut.width * (work + m * n)))

    def carried(
        self, carry: Callable[[Tensor, Node, Node], Tensor], to: Node, at: Node, chunk_bytes: int | None
    ) -> Tensor:
        """All unit directions of ``at`` carried ``to``, some at a time: ``(B or 1, width of at, width of to)``."""
        rows = at.width if chunk_bytes is None else self.at_once(chunk_bytes)
        if rows >= at.width and carry == self.vjp and at is not to:
            return self.rows(to, at)
        units = eye(at.width, at.shape, self.start.value)
        if rows >= at.width:
            whole = carry(units, to, at)
        else:
            blocks = [units[:, first : first + rows] for first in range(0, at.width, rows)]
            whole = torch.cat([carry(block, to, at) for block in blocks], 1)
        return flat(whole)

    def rows(self, to: Node, at: Node) -> Tensor:
        """The Jacobian of ``at`` by ``to``, backwards and in one go.

        Args:
            to: the earlier value; every path goes through it.
            at: the later value.

        Returns:
            ``(B or 1, width of at, width of to)``.
        """
        if self.is_chain and at.value.dim() == 2:
            before, derivative = at.edges[0]
            matrix = derivative.matrix()
            if matrix is not None:
                pulled = flat(self.vjp(matrix, to, before))
                shared = isinstance(derivative, Dense) and pulled.data_ptr() == matrix.data_ptr()
                return pulled.clone() if shared else pulled  # the memory may be the weight's
        return flat(self.vjp(eye(at.width, at.shape, self.start.value), to, at))

    @property
    def bytes_each(self) -> int:
        """What one direction of the whole batch takes, in bytes."""
        return self.start.value.shape[0] * self.widest * self.start.value.element_size()

    def at_once(self, chunk_bytes: int) -> int:
        """How many directions of the whole batch the budget holds.

        Args:
            chunk_bytes: budget in bytes.

        Returns:
            At least 1.

        Raises:
            BudgetError: not even one.
        """
        bytes_each = self.bytes_each
        if chunk_bytes < bytes_each:
            raise BudgetError(chunk_bytes, bytes_each)
        return chunk_bytes // bytes_each
