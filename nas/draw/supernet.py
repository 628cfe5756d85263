"""An image of the supernet with the shares of its choices drawn in. Lengths are in points, 72 to an inch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.draw.figure import BLUE, GREY, INK, LINE, ORANGE, SMALL, TEXT, TITLE, new_figure, to_png
from nas.draw.names import short_names, shorten, shorten_parts
from nas.draw.shares import draw_shares
from nas.space import Slot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_BOXES = 12
"""Choices of a slot that have a box of their own."""
MAX_COLUMNS = 4
"""Slots in a row of the image, which is at most 1,400 pixels wide; a longer supernet goes on in the next row."""
MARKED = 1.5
"""Times its share by uniform sampling that the largest has to have: what chance draws most often is not the best."""
MAX_SLOTS = 16
"""A supernet with more is drawn as a bar a slot."""

MARGIN, HEAD, GAP, PORT = 20, 58, 44, 68  # border; the image's title; between two columns; width of a row's end pills
TITLES, BOX, SPACE, WIDTH = 40, 24, 7, 128  # height of a row's titles; of a box; between boxes; width of a box
ACCURACY = 13  # height of a box's second line
LETTERS = 13  # of a choice's name that fit beside its share


@dataclass(frozen=True)
class Box:
    """One choice, or the sum of those that are not shown."""

    name: str
    share: float
    strength: float
    """Of its colour, in [0, 1]: uniform sampling is half-way, whatever the number of choices."""
    accuracy: float | None = None
    largest: bool = False
    """By so much that it is no accident of sampling."""


def boxes_of(slot: Slot, shares: Sequence[float], accuracies: Mapping[int, float]) -> list[Box]:
    """The boxes of a slot, from top to bottom."""
    by_share = sorted(range(len(shares)), key=lambda k: -shares[k])
    first, rest = by_share[0], by_share[MAX_BOXES:]
    marked = len(shares) > 1 and shares[first] * len(shares) >= MARKED
    boxes = [
        Box(slot.choices[k], shares[k], min(shares[k] * len(shares) / 2, 1), accuracies.get(k), marked and k == first)
        for k in sorted(by_share[:MAX_BOXES])
    ]
    return [*boxes, Box(f"and {len(rest)} more", sum(shares[k] for k in rest), 0.0)] if rest else boxes


def percent(share: float) -> str:
    """A share with two digits: ``47%``, ``0.8%``, ``<0.1%``."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share:.0%}" if share >= 0.0995 or share == 0 else f"{share:.1%}"


def draw_supernet(
    slots: Sequence[Slot],
    shares: Sequence[Sequence[float]],
    accuracies: Sequence[Mapping[int, float]] | None = None,
) -> bytes:
    """Draw slots from left to right and their choices as boxes, coloured by share, as a PNG.

    More than 16 slots are a bar each.

    Args:
        slots: names of the slots and of their choices. Of more than 12 choices the 12 with the largest shares are
            shown, and one box for the others.
        shares: for each slot the share of each choice, in [0, 1].
        accuracies: for each slot choice -> accuracy in [0, 1], for those that have one.
    """
    known = accuracies or [{}] * len(slots)
    if len(slots) > MAX_SLOTS:
        return draw_shares(slots, shares, known)
    names = short_names([slot.name for slot in slots])
    columns = [boxes_of(*parts) for parts in zip(slots, shares, known, strict=True)]
    box = BOX + (ACCURACY if any(known) else 0)
    rows = math.ceil(len(columns) / MAX_COLUMNS)
    size = math.ceil(len(columns) / rows)  # 5 slots are drawn as 3 and 2, not as 4 and 1
    starts = range(0, len(columns), size)
    bodies = [max(map(len, columns[start : start + size])) * (box + SPACE) - SPACE for start in starts]
    width = max(2 * (MARGIN + PORT) + size * WIDTH + (size + 1) * GAP, 480)
    height = HEAD + sum(TITLES + body + MARGIN for body in bodies) + MARGIN
    figure = new_figure(width / 72, height / 72, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    legend = "orange: drawn 1.5 times as often as by chance, or more" + (
        "; acc: mean validation accuracy" if any(known) else ""
    )
    axes.text(MARGIN, MARGIN, "Share of each choice in the runs of its slot", size=TITLE, color=INK, va="center")
    axes.text(MARGIN, MARGIN + 18, legend, size=SMALL, color=GREY, va="center")
    top = HEAD
    for start, body in zip(starts, bodies, strict=True):
        stop = min(start + size, len(columns))
        taken = 2 * PORT + (stop - start) * WIDTH + (stop - start + 1) * GAP
        left = (width - taken) / 2 if rows == 1 else MARGIN
        middle = top + TITLES + body / 2
        _pill(axes, left, middle, "input" if start == 0 else "from above")
        x = left + PORT + GAP
        for k in range(start, stop):
            axes.text(x + WIDTH / 2, top + 12, shorten_parts(names[k], 24), size=TITLE, color=INK, ha="center")
            number = f"{len(shares[k])} choice" + ("s" if len(shares[k]) != 1 else "")
            axes.text(x + WIDTH / 2, top + 27, number, size=SMALL, color=GREY, ha="center")
            # What leaves a slot meets in a dot half-way to the next one; a pill needs no dot.
            before, after = x - (GAP if k == start else GAP / 2), x + WIDTH + (GAP if k == stop - 1 else GAP / 2)
            _draw_column(axes, columns[k], x, middle, before, after, box)
            if k < stop - 1:
                axes.plot([after], [middle], "o", ms=7, mfc="white", mec=GREY, zorder=3)
            x += WIDTH + GAP
        _pill(axes, x, middle, "output" if stop == len(columns) else "goes on")
        top += TITLES + body + MARGIN
    return to_png(figure)


def _rounded(axes: Axes, x: float, y: float, width: float, height: float, **look: Any) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((x, y), width, height, zorder=2, **look))


def _pill(axes: Axes, x: float, middle: float, label: str) -> None:
    _rounded(axes, x, middle - 12, PORT, 24, boxstyle="round,pad=0,rounding_size=12", fc="white", ec=GREY, lw=1.2)
    axes.text(x + PORT / 2, middle, label, size=SMALL, color=INK, ha="center", va="center_baseline")


def _draw_column(
    axes: Axes, boxes: Sequence[Box], x: float, middle: float, before: float, after: float, height: float
) -> None:
    """One slot at ``x``, its lines coming from (before, middle) and going to (after, middle)."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    right, top = x + WIDTH, middle - (len(boxes) * (height + SPACE) - SPACE) / 2
    paths, colours, widths = [], [], []
    placed = [(top + i * (height + SPACE), box) for i, box in enumerate(boxes)]
    for y, box in sorted(placed, key=lambda item: (item[1].largest, item[1].share)):  # the strongest line on top
        at = y + height / 2
        for (x0, y0), (x1, y1) in ((before, middle), (x, at)), ((right, at), (after, middle)):
            bend = (x0 + x1) / 2
            paths.append(Path([(x0, y0), (bend, y0), (bend, y1), (x1, y1)], [1, 4, 4, 4]))
            weight = box.share if box.strength else 0.0  # the sum of many small shares is no strong line
            colours.append(ORANGE if box.largest else (BLUE, 0.2 + 0.8 * weight))
            widths.append(0.8 + 3.2 * weight)
    axes.add_collection(PathCollection(paths, facecolors="none", edgecolors=colours, linewidths=widths, zorder=1))
    for y, box in placed:
        edge, line = (ORANGE, 2) if box.largest else (LINE, 1)
        face = (BLUE, 0.05 + 0.9 * box.strength)
        _rounded(axes, x, y, WIDTH, height, boxstyle="round,pad=0,rounding_size=6", fc=face, ec=edge, lw=line)
        ink = "white" if box.strength > 0.6 else INK
        text: dict[str, Any] = {"color": ink, "va": "center_baseline", "zorder": 4}
        at = y + (height if box.accuracy is None else BOX) / 2
        axes.text(x + 8, at, shorten(box.name, LETTERS), size=TEXT, **text)
        axes.text(right - 8, at, percent(box.share), size=TEXT, ha="right", **text)
        if box.accuracy is not None:
            axes.text(x + 8, y + BOX + ACCURACY / 2 - 3, f"acc {box.accuracy:.1%}", size=SMALL, **text)
