"""Fronts and hypervolumes against their definitions."""

import itertools
import random

import pytest

from nas.search.pareto import corners, dominates, front, hypervolume, hypervolume_curve


def cloud(number, dimensions, seed=0, side=6):
    rng = random.Random(seed)
    return [tuple(float(rng.randrange(side)) for _ in range(dimensions)) for _ in range(number)]


def test_the_front_is_what_no_point_dominates():
    for dimensions, seed in itertools.product((1, 2, 3, 4), range(8)):
        points = cloud(30, dimensions, seed)
        undominated = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
        assert front(points) == undominated, (dimensions, seed)


def test_equal_points_do_not_dominate_each_other():
    assert front([(1.0, 2.0), (1.0, 2.0), (2.0, 2.0)]) == [0, 1]
    assert not dominates((1.0, 2.0), (1.0, 2.0))
    assert not dominates((1.0, 3.0), (2.0, 2.0))


def test_the_hypervolume_counts_the_dominated_unit_cells():
    side = 5
    for dimensions, seed in itertools.product((1, 2, 3, 4), range(6)):
        points = cloud(6, dimensions, seed, side + 2)  # some lie beyond the reference
        cells = itertools.product(range(side), repeat=dimensions)
        covered = sum(any(all(x <= c for x, c in zip(p, cell, strict=True)) for p in points) for cell in cells)
        assert hypervolume(points, (float(side),) * dimensions) == pytest.approx(covered), (dimensions, seed)


def test_the_reference_lies_a_tenth_beyond_the_worst():
    ideal, reference = corners([(0.0, 30.0), (10.0, 10.0), (5.0, 10.0)])
    assert ideal == (0.0, 10.0)
    assert reference == pytest.approx((11.0, 32.0))


def test_the_curve_rises_to_the_share_of_all():
    points = cloud(40, 3)
    curve = hypervolume_curve(points)
    assert len(curve) == 40
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(curve))
    ideal, reference = corners(points)
    box = 1.0
    for i, r in zip(ideal, reference, strict=True):
        box *= r - i
    assert curve[-1] == pytest.approx(hypervolume(points, reference) / box)
    assert 0 < curve[0] <= curve[-1] <= 1


def test_points_all_alike_have_a_curve_too():
    assert hypervolume_curve([(3.0, 3.0)] * 3) == pytest.approx([1.0, 1.0, 1.0])
    assert hypervolume_curve([]) == []
