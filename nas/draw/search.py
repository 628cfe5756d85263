"""The images of a search: its front against everything that was evaluated, and how it grew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from nas.draw.figure import BLUE, GREY, INK, ORANGE, SMALL, TEXT, new_figure, style, to_png
from nas.draw.names import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = 3.9
"""Inches of a panel."""
APART = 0.14
"""Of the width: how far points must be from each other to have their names written beside them."""


@dataclass(frozen=True)
class Axis:
    """One objective: its label with the unit, and which way is better."""

    label: str
    smaller_is_better: bool

    @property
    def text(self) -> str:
        """The label, with the way that is better."""
        better = "smaller" if self.smaller_is_better else "larger"
        return self.label if self.label.endswith("better)") else f"{self.label}, {better} is better"


@dataclass(frozen=True)
class Points:
    """The trials of a search; each point has one value for each objective, in the unit of its label.

    Attributes:
        feasible: those that keep all limits.
        broken: those that break one.
        front: the feasible ones that no other dominates.
        best: None if nothing is feasible.
        names, best_name: of the front and of the best one; those that have room are written beside their points.
    """

    feasible: Sequence[Sequence[float]]
    broken: Sequence[Sequence[float]]
    front: Sequence[Sequence[float]]
    best: Sequence[float] | None
    names: Sequence[str] = ()
    best_name: str = ""


def draw_front(axes: Sequence[Axis], points: Points) -> bytes:
    """A panel for each pair of at least two objectives, as a PNG."""
    # A cost reads best from left to right.
    pairs = [(j, i) if axes[j].smaller_is_better else (i, j) for i, j in combinations(range(len(axes)), 2)]
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    figure = new_figure(PANEL * columns + 1, (PANEL - 0.4) * rows + 0.9)
    figure.suptitle("Pareto front" if len(axes) == 2 else "Pareto front of all objectives, two at a time", color=INK)
    for index, (x, y) in enumerate(pairs):
        panel = figure.add_subplot(rows, columns, index + 1)
        _draw_pair(panel, axes, points, x, y)
        style(panel, axes[x].text, axes[y].text)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    across = 2 if columns == 1 else 5
    figure.legend(handles, labels, loc="outside lower center", ncols=across, frameon=False, fontsize=TEXT)
    return to_png(figure)


def _draw_pair(panel: Axes, axes: Sequence[Axis], points: Points, x: int, y: int) -> None:
    def xy(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
        return [row[x] for row in rows], [row[y] for row in rows]

    if points.broken:
        label = f"breaks a limit ({len(points.broken)})"
        panel.scatter(*xy(points.broken), s=16, marker="x", c=GREY, linewidths=0.8, label=label)
    label = f"evaluated ({len(points.feasible)})"
    panel.scatter(*xy(points.feasible), s=16, c=GREY, alpha=0.6, linewidths=0, label=label)
    # With more than two objectives the front of all of them is no staircase in two: draw that of the two too.
    more = len(axes) > 2
    x_sign, y_sign = (1 if axes[i].smaller_is_better else -1 for i in (x, y))
    steps: list[Sequence[float]] = []
    for row in sorted(points.feasible, key=lambda row: (x_sign * row[x], y_sign * row[y])):
        if not steps or y_sign * row[y] < y_sign * steps[-1][y]:
            steps.append(row)
    label = "best of these two alone" if more else ""
    panel.step(*xy(steps), where="post", color=BLUE, linewidth=1.2, label=label)
    label = f"Pareto front ({len(points.front)})"
    panel.scatter(*xy(points.front), s=34, c=BLUE, edgecolors="white", linewidths=0.7, zorder=3, label=label)
    # Beyond the front there is nothing that a name could hide.
    away, side = (-x_sign * 5, -y_sign * 5), ("right" if x_sign > 0 else "left", "top" if y_sign > 0 else "bottom")
    look: dict[str, Any] = {
        "ha": side[0],
        "va": side[1],
        "fontsize": SMALL - 1,
        "color": INK,
        "textcoords": "offset points",
    }
    for text, row in _named(points, x):
        panel.annotate(shorten(text, 16), (row[x], row[y]), away, **look)
    panel.margins(x=0.16, y=0.1)
    if points.best is not None:
        x_best, y_best = xy([points.best])
        panel.scatter(
            x_best, y_best, s=130, marker="*", c=ORANGE, edgecolors=INK, linewidths=0.6, zorder=4, label="best"
        )


def _named(points: Points, x: int) -> list[tuple[str, Sequence[float]]]:
    """The best one and those of the front that stand far enough from each other, with their names."""
    chosen = [] if points.best is None else [(points.best_name, points.best)]
    pairs = sorted(zip(points.names, points.front, strict=False), key=lambda pair: pair[1][x])
    all_x = [row[x] for row in (*points.feasible, *points.front)]
    apart = APART * (max(all_x) - min(all_x))
    for name, row in pairs:
        if all(abs(row[x] - other[x]) > apart for _, other in chosen):
            chosen.append((name, row))
    return chosen


def draw_values(axis: Axis, feasible: dict[int, float], broken: dict[int, float], best: Sequence[float]) -> bytes:
    """One objective over the trials, as a PNG.

    Args:
        axis: the objective.
        feasible, broken: trial number -> value, of those that keep and that break the limits.
        best: for each feasible trial, the best value so far.
    """
    figure = new_figure(7.2, 4.2)
    panel = figure.subplots()
    for trials, marker, label in ((broken, "x", "breaks a limit"), (feasible, "o", "evaluated")):
        if trials:
            found = list(trials), list(trials.values())
            panel.scatter(*found, s=16, marker=marker, c=GREY, linewidths=0.8, label=f"{label} ({len(trials)})")
    if feasible:
        panel.step(list(feasible), best, where="post", color=BLUE, linewidth=1.5, label="best so far")
    style(panel, "trial", axis.text, "Best of the trials so far")
    panel.locator_params(axis="x", integer=True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=TEXT)
    return to_png(figure)


def draw_curve(numbers: Sequence[int], shares: Sequence[float], ideal: str, reference: str) -> bytes:
    """The hypervolume of the front so far over the trials, as a PNG.

    Args:
        numbers: of the trials after which the share changes.
        shares: of the box between the ideal and the reference point, in [0, 1].
        ideal, reference: both points in words.
    """
    figure = new_figure(7.2, 4.2)
    panel = figure.subplots()
    panel.step(numbers, shares, where="post", color=BLUE, linewidth=1.5)
    style(panel, "trial", "hypervolume (share of the box)")
    panel.locator_params(axis="x", integer=True)
    title = f"Hypervolume of the front so far\nbox from the ideal point {ideal}\nto the reference point {reference}"
    panel.set_title(title, fontsize=SMALL, color=INK, loc="left")
    panel.set_ylim(0, 1.02)
    return to_png(figure)
