"""A Jacobian that is kept as the product of its layers' derivatives and only multiplied out on demand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.plan.order import LinearGraph, only
from nas.jac.plan.products import gram_product
from nas.jac.plan.trace import Node
from nas.jac.refuse import CHUNK_BYTES, GRAM_BYTES, SLOPES, check_finite, check_square


class FactoredJacobian:
    """The Jacobians of a batch, one a sample, unexpanded: the ``graph`` (often a chain) of a network's linear maps.

    Made by ``jacobian(model, x, factored=True)`` for a network ``(B, *in)`` to ``(B, *out)``, of N and M entries.
    Results keep a tape if it was made with ``create_graph=True``. Source: Griewank and Walther, *Evaluating
    Derivatives* (2008), ch. 3 (modes) and ch. 10 (vertex elimination).
    """

    def __init__(self, graph: LinearGraph) -> None:
        self.graph = graph
        self._taped = torch.is_grad_enabled()

    def __repr__(self) -> str:
        return f"FactoredJacobian(shape={tuple(self.shape)})"

    @property
    def value(self) -> Tensor:
        """What the network gave, ``(B, *out)``."""
        return self.graph.stop.value

    @property
    def shape(self) -> torch.Size:
        """The shape of :meth:`dense`: ``(B, *out, *in)``."""
        start, stop = self.graph.start, self.graph.stop
        return torch.Size((start.value.shape[0], *stop.shape, *start.shape))

    def dense(self, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """Multiplied out, ``(B, *out, *in)``, with at most ``chunk_bytes`` of directions under way at once."""
        with torch.set_grad_enabled(self._taped):
            return self.graph.dense(int(chunk_bytes))

    def mv(self, v: Tensor) -> Tensor:
        """The product with a vector a sample, ``J v``: from ``(B, *in)`` to ``(B, *out)``."""
        return self._product("v", v, self.graph.jvp, self.graph.start, self.graph.stop)

    def vm(self, u: Tensor) -> Tensor:
        """The product with a vector a sample from the left, ``u J``: from ``(B, *out)`` to ``(B, *in)``."""
        return self._product("u", u, self.graph.vjp, self.graph.stop, self.graph.start)

    def _product(self, name: str, vector: Tensor, carry: Callable[..., Tensor], at: Node, to: Node) -> Tensor:
        wanted, found = ((tuple(t.shape), t.dtype, t.device) for t in (at.value, vector))
        if found != wanted:
            rule = f"must be of shape {wanted[0]}, {wanted[1]}, on {wanted[2]}"
            raise JacobianError(name, found, rule, "pass one vector a sample")
        with torch.set_grad_enabled(self._taped):
            product = carry(vector.unsqueeze(1), to).squeeze(1)
        check_finite("product", product, "the product", SLOPES)
        return product

    def logabsdet(self) -> Tensor:
        """The logarithm of ``|det J|``, ``(B,)``, minus infinity where J is singular; J has to be square."""
        start, n = self.graph.start, self.graph.start.width
        check_square(self.graph.stop.width, n)
        # Factor by factor where factors are square: a Linear costs one LU for the batch, the rest sums of logarithms.
        total, before = start.value.new_zeros(start.value.shape[0]), start
        with torch.set_grad_enabled(self._taped):
            for cut in (node for node in self.graph.cuts()[1:] if node.width == n):
                derivative = only(before, cut)
                factor = None if derivative is None else derivative.logabsdet(n)
                if factor is None:
                    part = LinearGraph(before, cut)
                    factor = torch.linalg.slogdet(part.dense(max(CHUNK_BYTES, part.bytes_each)).view(-1, n, n))[1]
                total, before = total + factor, cut
        check_finite("logabsdet", total.detach().masked_fill(total.isneginf(), 0), "it", SLOPES)
        return total

    def gram(self, other: FactoredJacobian, chunk_bytes: int = GRAM_BYTES) -> Tensor:
        """The products ``J_b other_b^T``, ``(B, M, M of other)``, of two networks of the same inputs, in blocks."""
        with torch.set_grad_enabled(self._taped):
            product = gram_product(self.graph, other.graph, int(chunk_bytes))
        check_finite("gram", product, "the product", SLOPES)
        return product
