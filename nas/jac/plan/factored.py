"""A Jacobian that is kept as the product of its layers' derivatives and only multiplied out on demand."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.plan.maps import Dense
from nas.jac.plan.order import LinearGraph
from nas.jac.plan.products import gram_product
from nas.jac.plan.trace import Node
from nas.jac.refuse import CHUNK_BYTES, GRAM_BYTES, SLOPES, WEIGHTS, check_finite

CACHED = 2**16
"""Number of entries that are read again at no cost worth saving."""


class FactoredJacobian(LinearGraph):
    """The Jacobians of a batch, one a sample, unexpanded: a chain (or a graph) of linear maps.

    Args:
        start: the network's input.
        stop: its output.

    Shapes:
        Of the network ``(B, *in)`` to ``(B, *out)``; N and M are the numbers of entries of ``in`` and ``out``.

    Source: Griewank and Walther, *Evaluating Derivatives* (2008), ch. 3 (modes) and ch. 10 (vertex elimination).
    """

    def __repr__(self) -> str:
        return f"FactoredJacobian(shape={tuple(self.shape)})"

    @property
    def value(self) -> Tensor:
        """What the network gave, ``(B, *out)``."""
        return self.stop.value

    @property
    def shape(self) -> torch.Size:
        """The shape of :meth:`dense`: ``(B, *out, *in)``."""
        return torch.Size((self.start.value.shape[0], *self.stop.shape, *self.start.shape))

    def dense(self, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """Multiply out, from the narrowest value of the network outwards.

        A network that narrows towards its output is evaluated backwards, M directions; one that widens, forwards,
        N directions; one with a bottleneck of width w in between, w directions either way and one product.

        Refuses, with a :class:`JacobianError`: a budget too small for one direction of the batch.

        Args:
            chunk_bytes: budget in bytes for the directions that are under way at once.

        Returns:
            ``(B, *out, *in)``.
        """
        with torch.set_grad_enabled(self._taped):
            return self.checked(int(chunk_bytes))

    def checked(self, chunk_bytes: int) -> Tensor:
        """As :meth:`dense`, in the grad mode that is on.

        Refuses, with a :class:`JacobianError`: what :meth:`dense` refuses.

        Args:
            chunk_bytes: budget in bytes.

        Returns:
            ``(B, *out, *in)``.
        """
        whole, finite = self._multiplied(chunk_bytes)
        if not finite:
            check_finite("jacobian", whole, "the Jacobian", SLOPES)
        check_finite("output", self.stop.value, "the output", WEIGHTS)
        return whole

    def unchecked(self) -> Tensor:
        """As :meth:`dense` with any budget, and without a look at the numbers, which a recording cannot take.

        Returns:
            ``(B, *out, *in)``.
        """
        return self._multiplied(None)[0]

    def _multiplied(self, chunk_bytes: int | None) -> tuple[Tensor, bool]:
        """The dense Jacobian, and whether it is known to be finite."""
        cut = self.stop if self.narrows else self.narrowest()
        vectors = self.is_chain and cut is self.stop is not self.start and self.start.value.dim() == 2
        first = self.order[1].edges[0][1] if vectors else None
        finite = False
        if isinstance(first, Dense):
            inner = self.carried(self.vjp, self.order[1], self.stop, chunk_bytes)
            finite = chunk_bytes is not None and inner.numel() > CACHED and _product_is_finite(inner, first.weight)
            whole = first.vjp(inner)
        elif cut is self.stop:
            whole = self.carried(self.vjp, self.start, self.stop, chunk_bytes)
        elif cut is self.start:
            whole = self.carried(self.jvp, self.stop, self.start, chunk_bytes).mT
        else:
            after = self.carried(self.jvp, self.stop, cut, chunk_bytes).mT
            whole = after @ self.carried(self.vjp, self.start, cut, chunk_bytes)
        batch = self.start.value.shape[0]
        if whole.shape[0] != batch:
            whole = whole.expand(batch, -1, -1).contiguous()
        return (whole if vectors and self.stop.value.dim() == 2 else whole.reshape(self.shape)), finite

    def mv(self, v: Tensor) -> Tensor:
        """The product with a vector a sample, ``J v``.

        Args:
            v: ``(B, *in)``.

        Returns:
            ``(B, *out)``.
        """
        self._check_vector("v", v, self.start)
        with torch.set_grad_enabled(self._taped):
            product = self.jvp(v.unsqueeze(1), self.stop).squeeze(1)
        check_finite("mv", product, "the product", SLOPES)
        return product

    def vm(self, u: Tensor) -> Tensor:
        """The product with a vector a sample from the left, ``u J``.

        Args:
            u: ``(B, *out)``.

        Returns:
            ``(B, *in)``.
        """
        self._check_vector("u", u, self.stop)
        with torch.set_grad_enabled(self._taped):
            product = self.vjp(u.unsqueeze(1), self.start).squeeze(1)
        check_finite("vm", product, "the product", SLOPES)
        return product

    def logabsdet(self) -> Tensor:
        """The logarithm of ``|det J|``, factor by factor where factors are square.

        A Linear in a chain costs one LU for the whole batch and an elementwise operation a sum of logarithms;
        only what lies between two values of width N with something wider or narrower in it is multiplied out.

        Returns:
            ``(B,)``; minus infinity where J is singular.

        Raises:
            JacobianError: J is not square.
        """
        n = self.start.width
        if self.stop.width != n:
            shape = (self.stop.width, n)
            raise JacobianError("jacobian", shape, "must be square to have a determinant", "use gram or dense")
        total = self.start.value.new_zeros(self.start.value.shape[0])
        before = self.start
        with torch.set_grad_enabled(self._taped):
            for cut in (node for node in self.cuts()[1:] if node.width == n):
                total = total + self._segment_logabsdet(before, cut)
                before = cut
        if not (total < torch.inf).all():
            check_finite("logabsdet", total.nan_to_num(neginf=0, posinf=torch.inf, nan=torch.nan), "it", SLOPES)
        return total

    def _segment_logabsdet(self, before: Node, after: Node) -> Tensor | float:
        if len(after.edges) == 1 and after.edges[0][0] is before:
            known = after.edges[0][1].logabsdet(after.width)
            if known is not None:
                return known
        part = FactoredJacobian(before, after)
        segment = part.dense(max(CHUNK_BYTES, part.bytes_each))
        return torch.linalg.slogdet(segment.view(len(segment), after.width, before.width))[1]

    def gram(self, other: FactoredJacobian, chunk_bytes: int = GRAM_BYTES) -> Tensor:
        """The products ``J_b other_b^T``, without an array of M x N beyond a chunk.

        Refuses, with a :class:`JacobianError`: Jacobians that do not go together, a budget that is too small.

        Args:
            other: Jacobians with the same inputs and batch, such as those of the same network at other points.
            chunk_bytes: budget in bytes for the directions that are under way at once.

        Returns:
            ``(B, M, M of other)``.
        """
        with torch.set_grad_enabled(self._taped):
            product = gram_product(self, other, int(chunk_bytes))
        check_finite("gram", product, "the product", SLOPES)
        return product

    def _check_vector(self, name: str, vector: Tensor, node: Node) -> None:
        wanted, found = ((tuple(t.shape), t.dtype, t.device) for t in (node.value, vector))
        if found != wanted:
            rule = f"must be of shape {wanted[0]}, {wanted[1]}, on {wanted[2]}"
            raise JacobianError(name, found, rule, "pass one vector a sample")


def _product_is_finite(rows: Tensor, weight: Tensor) -> bool:
    """Whether ``rows @ weight`` must be finite, by Cauchy and Schwarz: the factors are quicker to read than it is."""
    with torch.no_grad():
        bound = torch.linalg.vector_norm(rows).item() * torch.linalg.vector_norm(weight).item()
    return bound < torch.finfo(rows.dtype).max
