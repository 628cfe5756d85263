"""A kernel of all pairs of samples, block by block, within a budget."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from nas.jac.errors import BudgetError
from nas.jac.kernels.features import features
from nas.jac.kernels.layers import Feature, add_product, add_upper_product
from nas.jac.kernels.survey import Layer, Survey
from nas.jac.kernels.work import Sizes, Work, product_elements

AT_ONCE_BYTES = 2**26
"""Samples go together up to this much work, whatever the budget: more is not faster, and takes more memory."""


@dataclass(frozen=True)
class Block:
    """Samples ``start`` to ``stop`` with output entries ``first`` to ``last``."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """How a budget is spent.

    Attributes:
        samples: how many go together.
        seeds: how many output entries of a sample; fewer than all only if ``samples`` is 1.
        held: how many blocks' features are kept at once.
        total: output entries of a sample.
    """

    samples: int
    seeds: int
    held: int
    total: int

    def blocks(self, batch: int) -> list[Block]:
        """All blocks of a batch.

        Args:
            batch: number of samples.

        Returns:
            In order.
        """
        entries = [(i, min(i + self.seeds, self.total)) for i in range(0, self.total, self.seeds)]
        starts = range(0, batch, self.samples)
        return [Block(i, min(i + self.samples, batch), *each) for i in starts for each in entries]


def plan(known: Survey, work: Work, batch: int, chunk_bytes: int) -> Plan:
    """Divide a batch.

    Args:
        known: the survey of the function.
        work: what the kernel needs.
        batch: number of samples, of the larger batch if there are two.
        chunk_bytes: the budget.

    Returns:
        The plan.

    Raises:
        BudgetError: it does not hold one output entry of one sample.
    """
    itemsize = known.dtype.itemsize
    kept, made = _elements(known, work)

    def needed(samples: int, seeds: int) -> int:
        return itemsize * (made(samples, seeds) + 2 * kept(samples, seeds))

    if needed(1, 1) > chunk_bytes:
        raise BudgetError(chunk_bytes, needed(1, 1))
    share = min(chunk_bytes // 2, AT_ONCE_BYTES)
    samples = bisect_right(range(1, batch + 1), share, key=lambda count: needed(count, work.seeds))
    if samples > 0:
        seeds, parts = work.seeds, -(-batch // samples)
        samples = -(-batch // parts)
    else:
        samples = 1
        seeds = bisect_right(range(1, work.seeds + 1), chunk_bytes, key=lambda count: needed(1, count))
    block = itemsize * kept(samples, seeds)
    held = (chunk_bytes - itemsize * made(samples, seeds)) // block - 1
    return Plan(samples, seeds, max(1, held), work.seeds)


def _elements(known: Survey, work: Work) -> tuple[Callable[[int, int], int], Callable[[int, int], int]]:
    """Numbers that a block's features have, and that are made on the way to them and to their products."""
    others = sum(leaf.numel() for leaf in known.others)
    a_row, a_sample, gradients, inputs = others, 0, 0, 0
    factors: list[Sizes] = []
    for layer in known.layers:
        size = layer.size
        gradients += size.outputs * size.positions
        seen = size.inputs * size.groups * size.positions
        inputs = max(inputs, 2 * seen)  # patches, and the input with its padding
        if layer.as_rows(work):
            a_row += _row(layer)
        else:
            a_row, a_sample = a_row + size.outputs * size.positions, a_sample + seen
            factors.append(size)

    def kept(samples: int, seeds: int) -> int:
        return samples * (seeds * a_row + a_sample)

    def made(samples: int, seeds: int) -> int:
        by_layers = known.elements + (seeds + 2) * gradients + inputs
        by_rows = 2 * (seeds + 1) * (known.elements + others) if others else 0
        products = [product_elements(size, seeds, samples, work.summed) for size in factors]
        return max(samples * max(by_layers, by_rows), max(products, default=0))

    return kept, made


def _row(layer: Layer) -> int:
    size = layer.size
    weight = size.outputs * size.inputs if layer.weight is not None else 0
    return weight + (size.outputs if layer.bias is not None else 0)


def all_pairs(
    fn: Callable[[Tensor], Tensor],
    known: Survey,
    x1: Tensor,
    x2: Tensor | None,
    seeds: Tensor,
    summed: bool,
    chunk_bytes: int,
) -> Tensor:
    """The kernel of all pairs of samples.

    Args:
        fn: guarded function, ``(B, *in)`` to ``(B, M)``.
        known: its survey.
        x1: ``(B1, *in)``.
        x2: ``(B2, *in)``, or None for ``x1``, which takes half the work and gives an exactly symmetric kernel.
        seeds: ``(S, M)``, directions in the space of outputs.
        summed: whether to sum over equal seeds.
        chunk_bytes: the budget.

    Returns:
        ``(B1 * S, B2 * S)``, or ``(B1, B2)`` if summed.
    """
    other, count = x1 if x2 is None else x2, len(seeds)
    both = len(x1) + (0 if x2 is None else len(other))
    work = Work(both, len(x1) * len(other), count, summed)
    how = plan(known, work, max(len(x1), len(other)), chunk_bytes)
    rows, columns = how.blocks(len(x1)), how.blocks(len(other))
    entries = 1 if summed else count
    kernel = seeds.new_zeros((len(x1) * entries, len(other) * entries), dtype=known.dtype)

    def made(x: Tensor, block: Block) -> list[Feature]:
        return features(fn, known, x[block.start : block.stop], seeds[block.first : block.last], work)

    def add(a: Block, b: Block, of_a: list[Feature], of_b: list[Feature]) -> None:
        if summed and a.first != b.first:
            return
        out = kernel[_span(a, entries), _span(b, entries)].unsqueeze(0)
        for one, two in zip(of_a, of_b, strict=True):
            if one is two:
                add_upper_product(out, one)
            else:
                add_product(out, one, two)

    for first in range(0, len(rows), how.held):
        held = [(block, made(x1, block)) for block in rows[first : first + how.held]]
        if x2 is None:
            for i, (a, of_a) in enumerate(held):
                for b, of_b in held[i:]:
                    add(a, b, of_a, of_b)
        for b in rows[first + how.held :] if x2 is None else columns:
            of_b = made(other, b)
            for a, of_a in held:
                add(a, b, of_a, of_b)
            del of_b  # before the next are made
        del held
    if x2 is None:
        mirror(kernel)
    return kernel


def _span(block: Block, entries: int) -> slice:
    if entries == 1:
        return slice(block.start, block.stop)
    return slice(block.start * entries + block.first, (block.stop - 1) * entries + block.last)


def mirror(kernel: Tensor, step: int = 128) -> None:
    """Write the upper triangle over the lower one, in place.

    Args:
        kernel: ``(n, n)``.
        step: rows at a time.
    """
    for start in range(0, len(kernel), step):
        stop = start + step
        kernel[stop:, start:stop] = kernel[start:stop, stop:].T
        corner = kernel[start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)


def equal_pairs(
    fn: Callable[[Tensor], Tensor], known: Survey, x1: Tensor, x2: Tensor, seeds: Tensor, chunk_bytes: int
) -> Tensor:
    """The kernel of each sample of ``x1`` with the same sample of ``x2`` and no other.

    Args:
        fn: guarded function, ``(B, *in)`` to ``(B, M)``.
        known: its survey.
        x1: ``(B, *in)``.
        x2: ``(B, *in)``.
        seeds: ``(S, M)``, directions in the space of outputs.
        chunk_bytes: the budget.

    Returns:
        ``(B, S, S)``.
    """
    count = len(seeds)
    work = Work(2 * len(x1), len(x1), count, summed=False)
    how = plan(known, work, len(x1), chunk_bytes)
    kernel = seeds.new_zeros((len(x1), count, count), dtype=known.dtype)
    entries = how.blocks(1)
    for samples in _ranges(how.blocks(len(x1))):
        for a in entries:
            of_a = features(fn, known, x1[samples], seeds[a.first : a.last], work)
            for b in entries:
                same = x2 is x1 and b is a
                of_b = of_a if same else features(fn, known, x2[samples], seeds[b.first : b.last], work)
                out = kernel[samples, a.first : a.last, b.first : b.last]
                for one, two in zip(of_a, of_b, strict=True):
                    add_product(out, one, two)
    return kernel


def _ranges(blocks: Sequence[Block]) -> Iterator[slice]:
    for block in blocks:
        if block.first == 0:
            yield slice(block.start, block.stop)
