"""Names that fit."""

from __future__ import annotations

from collections.abc import Sequence


def shorten(text: str, letters: int) -> str:
    """``text`` in at most so many letters: its middle is left out, since names differ at their ends."""
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return f"{text[: letters - 1 - tail]}…{text[len(text) - tail :]}"


def shorten_parts(name: str, letters: int) -> str:
    """A dotted name in at most so many letters, its longest parts shortened first, so that all parts say something."""
    parts = name.split(".")
    widths = [*map(len, parts)]
    while sum(widths) + len(widths) - 1 > letters and max(widths) > 4:
        widths[widths.index(max(widths))] -= 1
    return shorten(".".join(map(shorten, parts, widths)), letters)


def short_names(names: Sequence[str]) -> list[str]:
    """Dotted names without the parts at their beginnings and ends that all of them share.

    ``net.layer1.0.conv2`` and ``net.layer2.0.conv2`` become ``layer1`` and ``layer2``; ``net.blocks.0`` and
    ``net.blocks.1`` become ``blocks.0`` and ``blocks.1``, since a number alone says nothing. Different names stay
    different, and one name alone stays as it is.
    """
    parts = [name.split(".") for name in names]
    if len(parts) < 2:
        return [*names]
    most = min(map(len, parts)) - 1
    first = _shared(parts, most)
    if first and any(row[first].isdecimal() for row in parts):
        first -= 1
    last = _shared([row[::-1] for row in parts], most - first)
    return [".".join(row[first : len(row) - last]) for row in parts]


def _shared(rows: Sequence[Sequence[str]], most: int) -> int:
    """How many parts, at most so many, all rows begin with."""
    return next((k for k in range(most) if len({row[k] for row in rows}) > 1), max(most, 0))
