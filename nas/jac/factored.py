"""A Jacobian that is kept as the product of its layers' derivatives and only multiplied out on demand."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.plan.order import LinearGraph
from nas.jac.plan.products import gram_product
from nas.jac.plan.trace import Node
from nas.jac.refuse import CHUNK_BYTES, GRAM_BYTES, SLOPES, check_finite


class FactoredJacobian:
    """The Jacobians of a batch, one a sample, unexpanded: a chain (or a graph) of linear maps.

    Made by ``jacobian(model, x, factored=True)`` for a network ``(B, *in)`` to ``(B, *out)``; N and M are the numbers
    of entries of ``in`` and ``out``. All results keep a tape if it was made with ``create_graph=True``.

    Source: Griewank and Walther, *Evaluating Derivatives* (2008), ch. 3 (modes) and ch. 10 (vertex elimination).

    Args:
        graph: the linear maps from the network's input to its output.
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
        """Multiply out, from the narrowest value of the network outwards; refuses a budget for less than one direction.

        Args:
            chunk_bytes: budget in bytes for the directions that are under way at once.

        Returns:
            ``(B, *out, *in)``.
        """
        with torch.set_grad_enabled(self._taped):
            return self.graph.dense(int(chunk_bytes))

    def mv(self, v: Tensor) -> Tensor:
        """The product with a vector a sample, ``J v``: from ``(B, *in)`` to ``(B, *out)``."""
        self._check_vector("v", v, self.graph.start)
        with torch.set_grad_enabled(self._taped):
            product = self.graph.jvp(v.unsqueeze(1), self.graph.stop).squeeze(1)
        check_finite("mv", product, "the product", SLOPES)
        return product

    def vm(self, u: Tensor) -> Tensor:
        """The product with a vector a sample from the left, ``u J``: from ``(B, *out)`` to ``(B, *in)``."""
        self._check_vector("u", u, self.graph.stop)
        with torch.set_grad_enabled(self._taped):
            product = self.graph.vjp(u.unsqueeze(1), self.graph.start).squeeze(1)
        check_finite("vm", product, "the product", SLOPES)
        return product

    def logabsdet(self) -> Tensor:
        """The logarithm of ``|det J|``, ``(B,)``, minus infinity where J is singular; J has to be square."""
        start, n = self.graph.start, self.graph.start.width
        if self.graph.stop.width != n:
            shape = (self.graph.stop.width, n)
            raise JacobianError("jacobian", shape, "must be square to have a determinant", "use gram or dense")
        # Factor by factor where factors are square: a Linear costs one LU for the batch, the rest sums of logarithms.
        total, before = start.value.new_zeros(start.value.shape[0]), start
        with torch.set_grad_enabled(self._taped):
            for cut in (node for node in self.graph.cuts()[1:] if node.width == n):
                total, before = total + self._segment_logabsdet(before, cut), cut
        if not (total < torch.inf).all():
            check_finite("logabsdet", total.nan_to_num(neginf=0, posinf=torch.inf, nan=torch.nan), "it", SLOPES)
        return total

    def _segment_logabsdet(self, before: Node, after: Node) -> Tensor | float:
        if len(after.edges) == 1 and after.edges[0][0] is before:
            known = after.edges[0][1].logabsdet(after.width)
            if known is not None:
                return known
        part = LinearGraph(before, after)
        segment = FactoredJacobian(part).dense(max(CHUNK_BYTES, part.bytes_each))
        return torch.linalg.slogdet(segment.view(len(segment), after.width, before.width))[1]

    def gram(self, other: FactoredJacobian, chunk_bytes: int = GRAM_BYTES) -> Tensor:
        """The products ``J_b other_b^T``, ``(B, M, M of other)``, of two networks of the same inputs, in blocks."""
        with torch.set_grad_enabled(self._taped):
            product = gram_product(self.graph, other.graph, int(chunk_bytes))
        check_finite("gram", product, "the product", SLOPES)
        return product

    def _check_vector(self, name: str, vector: Tensor, node: Node) -> None:
        wanted, found = ((tuple(t.shape), t.dtype, t.device) for t in (node.value, vector))
        if found != wanted:
            rule = f"must be of shape {wanted[0]}, {wanted[1]}, on {wanted[2]}"
            raise JacobianError(name, found, rule, "pass one vector a sample")
