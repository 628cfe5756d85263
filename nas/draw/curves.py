"""Curves of several runs in one chart a tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas.draw.figure import COLOURS, LINES, SMALL, new_figure, style, to_png
from nas.draw.names import shorten

MOST = len(COLOURS) * len(LINES)
"""Runs that can be told apart."""

LONGEST = 75
"""Letters of a run that the legend of one chart shows whole."""


def draw_curves(charts: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> bytes:
    """Charts side by side, as a PNG.

    Args:
        charts: tag -> run -> points as (step, value); at most :data:`MOST` runs, each with one look in all charts.
    """
    runs = list(dict.fromkeys(run for curves in charts.values() for run in curves))
    assert len(runs) <= MOST
    figure = new_figure(5.6 * len(charts) + 0.6, 3.6 + 0.2 * len(runs))
    lines = {}
    for number, (tag, curves) in enumerate(charts.items(), 1):
        panel = figure.add_subplot(1, len(charts), number)
        for run, points in curves.items():
            k = runs.index(run)
            (lines[run],) = panel.plot(*zip(*points, strict=True), marker="o" if len(points) < 20 else "", markersize=3)
            lines[run].set(color=COLOURS[k % len(COLOURS)], linestyle=LINES[k // len(COLOURS)], linewidth=1.5)
        style(panel, "step", "", _plain(tag))
        panel.locator_params(axis="x", integer=True)
    labels = [_plain(shorten(run, LONGEST * len(charts))) for run in runs]
    handles = [lines[run] for run in runs]
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=SMALL, handlelength=3.5)
    return to_png(figure)


def _plain(text: str) -> str:
    """Matplotlib takes what stands between dollars for a formula."""
    return text.replace("$", r"\$")
