"""The kernel by products alone: a backward pass for each output entry, and a forward-mode pass for what it gave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from nas.jac.errors import BudgetError, JacobianError
from nas.jac.kernels.parameters import detached, run_with
from nas.jac.kernels.survey import Survey


def by_products(
    fn: Callable[[Tensor], Tensor],
    known: Survey,
    x1: Tensor,
    x2: Tensor,
    seeds: Tensor,
    summed: bool,
    chunk_bytes: int,
) -> Tensor:
    """``J(x1) (J(x2)^T e)`` for one direction ``e`` of one sample of ``x2`` after the other, several at a time.

    Args:
        fn: guarded function, ``(B, *in)`` to ``(B, M)``.
        known: its survey.
        x1: ``(B1, *in)``.
        x2: ``(B2, *in)``.
        seeds: ``(S, M)``, directions in the space of outputs.
        summed: whether to sum over equal seeds.
        chunk_bytes: the budget.

    Returns:
        ``(B1 * S, B2 * S)``, or ``(B1, B2)`` if summed.

    Raises:
        JacobianError: torch.func cannot do ``fn``, or does not see a parameter of it.
    """
    if known.alone:
        rule = "needs a function that torch.func can transform, with parameters in its sight"
        raise JacobianError("method", "products", rule, "use method='layerwise'")
    assert not known.in_layers, "surveyed without layers"
    parameters, count = known.others, len(seeds)
    values = detached(parameters)

    def column(x: Tensor, sample: Tensor, seed: Tensor) -> Tensor:
        pull = vjp(lambda *v: run_with(fn, parameters, v, sample.unsqueeze(0))[0], *values)[1]
        tangents = pull(seed)
        result: Tensor = jvp(lambda *v: run_with(fn, parameters, v, x), values, tangents)[1]
        return result @ seeds.mT  # (B1, S)

    rows, together = _chunks(known, len(x1), len(x2) * count, chunk_bytes)
    entries = 1 if summed else count
    kernel = seeds.new_zeros((len(x1), entries, len(x2), entries), dtype=known.dtype)
    for first in range(0, len(x2) * count, together):
        number = torch.arange(first, min(first + together, len(x2) * count), device=x2.device)
        b, n = number // count, number % count
        for start in range(0, len(x1), rows):
            part = slice(start, start + rows)
            columns = vmap(column, (None, 0, 0))(x1[part], x2[b], seeds[n]).to(known.dtype)  # (together, B1, S)
            if summed:
                equal = columns.gather(2, n[:, None, None].expand(-1, columns.shape[1], 1))
                kernel[part, 0, :, 0].index_add_(1, b, equal[..., 0].mT)
            else:
                kernel[part, :, b, n] = columns.movedim(0, -1)
    return kernel.flatten(2).flatten(0, 1)


def _chunks(known: Survey, batch: int, columns: int, chunk_bytes: int) -> tuple[int, int]:
    """How many samples of ``x1``, and how many directions, go together."""
    parameters = sum(leaf.numel() for leaf in known.others)

    def needed(rows: int, together: int) -> int:
        return known.dtype.itemsize * together * (2 * parameters + 3 * known.elements * (rows + 1))

    if needed(1, 1) > chunk_bytes:
        raise BudgetError(chunk_bytes, needed(1, 1))
    rows = batch
    while needed(rows, 1) > chunk_bytes:
        rows = -(-rows // 2)
    return rows, min(columns, chunk_bytes // needed(rows, 1))
