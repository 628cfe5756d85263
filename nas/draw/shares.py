"""How often each choice of a long supernet ran, a bar a slot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nas.draw.choices import legend_of
from nas.draw.figure import COLOURS, GREY, INK, SMALL, TITLE, new_figure, to_png
from nas.draw.names import short_names, shorten, shorten_parts
from nas.space import Slot

ROWS = 28
"""Bars in a column, unless there are more than three columns of them."""


def draw_shares(
    slots: Sequence[Slot], shares: Sequence[Sequence[float]], accuracies: Sequence[Mapping[int, float]]
) -> bytes:
    """A bar for each slot of a long supernet, cut into the shares of its choices, as a PNG.

    Args:
        slots: names of the slots and of their choices.
        shares: for each slot the share of each choice, in [0, 1].
        accuracies: for each slot choice -> accuracy in [0, 1], for those that have one.
    """
    names = short_names([slot.name for slot in slots])
    columns = min(math.ceil(len(slots) / ROWS), 3)
    rows = math.ceil(len(slots) / columns)
    figure = new_figure(max(4.2 * columns, 6.4), 0.25 * rows + 1.3)
    figure.suptitle("Share of each choice in the runs of its slot, and the most accurate choice", x=0.01, ha="left",
                    size=TITLE, color=INK)  # fmt: skip
    for column in range(columns):
        here = range(column * rows, min((column + 1) * rows, len(slots)))
        panel = figure.add_subplot(1, columns, column + 1)
        for place, k in enumerate(here):
            start = 0.0
            for choice, share in enumerate(shares[k]):
                panel.barh(place, share, 0.7, left=start, color=COLOURS[choice % len(COLOURS)])
                start += share
            panel.text(1.02, place, _best(slots[k], accuracies[k]), size=SMALL - 1, color=INK, va="center")
        panel.set(xlim=(0, 1), ylim=(rows - 0.5, -0.5), xticks=[])
        panel.set_yticks(range(len(here)), [shorten_parts(names[k], 20) for k in here], fontsize=SMALL - 1, color=INK)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        panel.axvline(0.5, color=GREY, lw=0.6, zorder=3)
    if len({slot.choices for slot in slots}) == 1 and len(slots[0].choices) <= len(COLOURS):
        legend_of(figure, slots[0].choices)
    return to_png(figure)


def _best(slot: Slot, accuracies: Mapping[int, float]) -> str:
    if not accuracies:
        return ""
    best = max(accuracies, key=lambda choice: accuracies[choice])
    return f"{shorten(slot.choices[best], 10)} {accuracies[best]:.1%}"
