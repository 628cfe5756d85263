"""Sums by key, and architectures taken apart: the small change of the tracker."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TypeVar

from nas.space import Architecture

Key = TypeVar("Key", bound=Hashable)
Sums = dict[Key, list[float]]
"""key -> [number of observations, their sum]."""


def add(sums: Sums[Key], key: Key, number: float, value: float) -> None:
    """Add to ``sums[key]``, which is [number, sum of values]."""
    entry = sums.get(key)
    if entry is None:
        sums[key] = [number, value]
    else:
        entry[0] += number
        entry[1] += value


def branches_of(path: Architecture) -> Iterator[tuple[int, int]]:
    """Every (slot, choice) that ``path`` runs."""
    for slot, entry in enumerate(path):
        for choice in entry if isinstance(entry, tuple) else (entry,):
            yield slot, choice


def as_lists(path: Architecture) -> list[int | list[int]]:
    """``path`` with lists for tuples, as a checkpoint holds it."""
    return [list(entry) if isinstance(entry, tuple) else entry for entry in path]


def as_architecture(path: list[int | list[int]]) -> Architecture:
    """The inverse of :func:`as_lists`."""
    return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in path)
