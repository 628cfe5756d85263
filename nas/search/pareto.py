"""Pareto fronts and their hypervolume. Everything is minimised: what is to be large comes in negated."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import sub

Point = tuple[float, ...]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere worse than ``b``, and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates; equal points are all in it."""
    kept: list[int] = []
    # In lexicographic order no point is dominated by a later one.
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if not any(dominates(points[j], points[i]) for j in kept):
            kept.append(i)
    return sorted(kept)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume of what lies between ``points`` and ``reference``: what each point adds to those before it.

    Args:
        points: to be minimised; those that do not lie below ``reference`` in every coordinate have no share.
        reference: the worst corner.
    """
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    return sum(_exclusive(point, inside[:i], reference) for i, point in enumerate(inside))


def _exclusive(point: Point, others: Sequence[Point], reference: Point) -> float:
    """The volume that ``point`` dominates and ``others`` do not (WFG: While, Bradstreet and Barone, 2012)."""
    shared = list(dict.fromkeys(tuple(map(max, point, other)) for other in others))
    return prod(map(sub, reference, point)) - hypervolume([shared[i] for i in front(shared)], reference)


def corners(points: Sequence[Point]) -> tuple[Point, Point]:
    """The ideal point, best in every coordinate, and the reference point: the worst, and a tenth of the range more.

    A coordinate in which all points agree gets a range of 1.
    """
    ideal = tuple(min(column) for column in zip(*points, strict=True))
    worst = tuple(max(column) for column in zip(*points, strict=True))
    reference = tuple(w + 0.1 * ((w - i) or 1.0) for i, w in zip(ideal, worst, strict=True))
    return ideal, reference


def hypervolume_curve(points: Sequence[Point]) -> list[float]:
    """Hypervolume after each point, as a share of the box between the :func:`corners` of all of them."""
    if not points:
        return []
    ideal, reference = corners(points)
    scaled = [tuple((x - i) / (r - i) for x, i, r in zip(point, ideal, reference, strict=True)) for point in points]
    ones = (1.0,) * len(ideal)
    curve: list[float] = []
    kept: list[Point] = []
    total = 0.0
    for point in scaled:
        if not any(dominates(other, point) or other == point for other in kept):
            total += _exclusive(point, kept, ones)
            kept = [other for other in kept if not dominates(point, other)] + [point]
        curve.append(total)
    return curve
