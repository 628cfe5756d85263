"""How much work a layer's part of a kernel is, each of the two ways of :mod:`nas.jac.kernels.layers`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Sizes:
    """The sizes of a layer of weights, for one sample.

    Attributes:
        inputs: what one output sees, I; patches have ``channels / groups * kernel`` entries.
        outputs: O.
        positions: T, over all calls of the layer.
        groups: how many blocks its weight has along its outputs.
    """

    inputs: int
    outputs: int
    positions: int
    groups: int = 1


@dataclass
class Work:
    """How often a kernel needs a layer's features and their products.

    Attributes:
        samples: how many samples have features, both batches together.
        pairs: how many pairs of samples meet.
        seeds: output entries a sample, S.
        summed: whether only the sum over equal output entries is wanted (a trace).
    """

    samples: int
    pairs: int
    seeds: int
    summed: bool


def flops_of_rows(size: Sizes, work: Work) -> int:
    """FLOPs (2 x multiply-adds) of the way through the weight's Jacobian.

    Args:
        size: of the layer.
        work: how often.

    Returns:
        FLOPs.
    """
    row = work.seeds * size.outputs * size.inputs
    products = work.pairs * row * (1 if work.summed else work.seeds)
    return 2 * (work.samples * row * size.positions + products)


def flops_of_factors(size: Sizes, work: Work) -> int:
    """FLOPs (2 x multiply-adds) of the way through the Grams of activations and gradients.

    Args:
        size: of the layer.
        work: how often.

    Returns:
        FLOPs.
    """
    t, entries = size.positions, 1 if work.summed else work.seeds
    gradients = work.seeds * size.outputs
    first = t * t * (size.inputs + (gradients if t > 1 else 0))
    return 2 * work.pairs * (first + gradients * entries * t)


def rows_are_cheaper(size: Sizes, work: Work) -> bool:
    """Which way, by counted work. A layer with groups has small blocks and always takes the Jacobian.

    Args:
        size: of the layer.
        work: how often.

    Returns:
        True for the Jacobian, False for the Grams.
    """
    return size.groups > 1 or flops_of_rows(size, work) < flops_of_factors(size, work)


def product_elements(size: Sizes, seeds: int, samples: int, summed: bool) -> int:
    """Elements that one call of :func:`add_product` makes besides its result, for a layer of factors.

    Args:
        size: of the layer.
        seeds: output entries a sample.
        samples: on each side.
        summed: whether the kernel is summed over equal entries.

    Returns:
        A count of elements.
    """
    t, entries = size.positions, 1 if summed else seeds
    if t == 1:
        return samples * samples * (entries * entries + 1)
    return samples * (t * t + 2 * seeds * size.outputs * t)
