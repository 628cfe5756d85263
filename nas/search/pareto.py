"""Pareto fronts and hypervolumes. Everything here is minimised: what is to be large comes in with its sign turned."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere worse than ``b``, and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that none of the others dominates; equal points are all in it."""
    kept: list[int] = []
    # In lexicographic order nobody is dominated by a later one.
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if not any(dominates(points[j], points[i]) for j in kept):
            kept.append(i)
    return sorted(kept)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume of what lies between ``points`` and ``reference`` (Zitzler and Thiele, 1998), by slicing.

    Args:
        points: to be minimised; those that do not lie below ``reference`` in every coordinate have no share.
        reference: the worst corner.
    """
    inside = {p for p in points if all(x < r for x, r in zip(p, reference, strict=True))}
    return _sliced(sorted(inside, key=lambda p: p[-1]), reference)


def _sliced(points: list[Point], reference: Point) -> float:
    """Of points sorted by their last coordinate: slab by slab along it, each a volume of one dimension less."""
    if len(reference) == 1:
        return reference[0] - points[0][0] if points else 0.0
    if len(reference) == 2:
        return _staircase(points, reference)
    total = 0.0
    for i, point in enumerate(points):
        top = points[i + 1][-1] if i + 1 < len(points) else reference[-1]
        if top > point[-1]:
            below = [p[:-1] for p in points[: i + 1]]
            kept = sorted((below[j] for j in front(below)), key=lambda p: p[-1])
            total += (top - point[-1]) * _sliced(kept, reference[:-1])
    return total


def _staircase(points: list[Point], reference: Point) -> float:
    total, left = 0.0, reference[0]
    for i, (x, y) in enumerate(points):
        left = min(left, x)
        top = points[i + 1][1] if i + 1 < len(points) else reference[1]
        total += (reference[0] - left) * (top - y)
    return total


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
    for point in scaled:
        if any(dominates(other, point) or other == point for other in kept):
            curve.append(curve[-1])
            continue
        kept = [other for other in kept if not dominates(point, other)] + [point]
        curve.append(hypervolume(kept, ones))
    return curve
