"""The winner of a search beside random networks of its cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from textwrap import fill

from nas.draw.figure import BLUE, GREY, INK, LINE, ORANGE, SMALL, TEXT, new_figure, style, to_png

ASIDE = 0.12
"""Of the two of a pair, so that both are seen where they are equal."""


def draw_verdict(draws: Sequence[int], winner: Sequence[float], random: Sequence[float], sentence: str) -> bytes:
    """Accuracies of the winner and of a random network on each draw, and the means of both, as a PNG.

    Args:
        draws: the number of the seed of each pair.
        winner, random: in percent, a value for each draw.
        sentence: the verdict.
    """
    figure = new_figure(7.2, 4.2)
    panel = figure.subplots()
    places = range(len(draws))
    left, right = ([place + aside for place in places] for aside in (-ASIDE, ASIDE))
    panel.plot([left, right], [winner, random], color=LINE, linewidth=1.5, zorder=1)
    for at, values, marker, colour, label in (
        (left, winner, "*", ORANGE, "winner"),
        (right, random, "o", BLUE, "random network"),
    ):
        panel.axhline(fmean(values), color=colour, linewidth=1.0, linestyle="--", zorder=1)
        more = {"edgecolors": INK, "linewidths": 0.6} if marker == "*" else {"linewidths": 0}
        size = 130 if marker == "*" else 34
        panel.scatter(at, values, s=size, marker=marker, c=colour, zorder=3, label=label, **more)
    panel.plot([], [], color=GREY, linewidth=1.0, linestyle="--", label="mean")
    style(panel, "draw: the number of the seed", "accuracy after training (%)")
    panel.set_xticks(places, [str(draw) for draw in draws])
    panel.set_title(fill(sentence[:1].upper() + sentence[1:], 84), fontsize=TEXT, color=INK, loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=SMALL)
    return to_png(figure)
