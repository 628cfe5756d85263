"""How the choices of each slot do over a run, a panel a slot."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from nas.draw.figure import COLOURS, INK, LINES, SMALL, TEXT, TITLE, new_figure, style, to_png
from nas.draw.names import short_names, shorten, shorten_parts
from nas.space import Slot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 12
Curves = Mapping[int, Sequence[tuple[int, float]]]
"""Choice -> points as (step, value)."""


def draw_choices(
    slots: Sequence[Slot], curves: Sequence[Curves], title: str, stars: Sequence[Collection[int]]
) -> bytes:
    """A panel for each slot of which at least two choices have points, at most 12, with a curve a choice, as a PNG.

    Args:
        slots: names of the slots and of their choices.
        curves: of each slot; values are from 0 to 1.
        title: large, above.
        stars: choices of each slot whose curves end in a star.
    """
    names = short_names([slot.name for slot in slots])
    leads = {k: _lead(slots[k], curve) for k, curve in enumerate(curves) if len(curve) > 1}
    shown = sorted(sorted(leads, key=lambda k: -leads[k][0])[:MAX_PANELS])
    assert shown, "nothing to compare"
    columns = next(n for n in (1, 2, 3, 4) if n * n >= len(shown) or n == 4)
    rows = math.ceil(len(shown) / columns)
    width = max(3.1 * columns, 5.6)
    figure = new_figure(width, 2.3 * rows + 1.1)
    left_out = "" if len(shown) == len(leads) else f"; the {len(shown)} of {len(leads)} slots with the largest leads"
    figure.suptitle(fill(f"{title}{left_out}", int(11 * width)), x=0.01, ha="left", size=TITLE, color=INK)
    alike = len({slots[k].choices for k in shown}) == 1
    for number, k in enumerate(shown, 1):
        panel = figure.add_subplot(rows, columns, number)
        _draw_curves(panel, slots[k], curves[k], stars[k])
        style(panel, "step" if number > len(shown) - columns else "")
        panel.set_title(f"{shorten_parts(names[k], 34)}\n{leads[k][1]}", fontsize=SMALL, color=INK, loc="left")
        panel.locator_params(axis="x", integer=True, nbins=5)
        if not alike:
            panel.legend(fontsize=SMALL - 2, frameon=False)
    if alike:
        legend_of(figure, slots[shown[0]].choices)
    return to_png(figure)


def _lead(slot: Slot, curve: Curves) -> tuple[float, str]:
    """By how much the best choice is ahead of the next at the end, as a number and in words."""
    (best, high), (second, low), *_ = sorted(((k, points[-1][1]) for k, points in curve.items()), key=lambda p: -p[1])
    first, next_ = (shorten(slot.choices[k], 9) for k in (best, second))
    points = f"{100 * (high - low):.1f}"
    return high - low, f"{first} {high:.1%}, " + (
        f"level with {next_}" if points == "0.0" else f"{points} points ahead of {next_}"
    )


def _draw_curves(panel: Axes, slot: Slot, curve: Curves, stars: Collection[int]) -> None:
    from matplotlib.ticker import PercentFormatter

    best = max(curve, key=lambda k: curve[k][-1][1])
    for k, points in sorted(curve.items()):
        colour, dash = COLOURS[k % len(COLOURS)], LINES[k // len(COLOURS)]
        marker = "o" if len(points) < 20 else ""
        wide = 2.4 if k == best else 1.2
        label = shorten(slot.choices[k], 20)
        panel.plot(*zip(*points, strict=True), color=colour, ls=dash, lw=wide, marker=marker, ms=3, label=label)
        if k in stars:
            panel.plot(*points[-1], marker="*", ms=13, color=colour, mec=INK, mew=0.6, zorder=4)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))


def legend_of(figure: Figure, choices: Sequence[str]) -> None:
    """Say below the panels which colour is which choice."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], ls=LINES[k // len(COLOURS)], lw=2.4)
        for k in range(len(choices))
    ]
    labels = [shorten(choice, 24) for choice in choices]
    figure.legend(handles, labels, loc="outside lower left", ncols=min(len(labels), 6), frameon=False, fontsize=TEXT)
