"""The pictures of a search: its front against everything that was evaluated, and how it grew."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from nas.search.objectives import Objective, points
from nas.search.outcome import SearchOutcome
from nas.search.pareto import front, hypervolume_curve
from nas.search.proposers import Trial

# Of the Okabe-Ito palette, which people with any colour vision can tell apart; the marks differ as well.
GREY, BLUE, VERMILION, GREEN = "#9a9a9a", "#0072b2", "#d55e00", "#009e73"
PANEL = 4.6
"""Inches of a panel."""


def draw_front(found: SearchOutcome) -> Figure:
    """A panel for each pair of objectives; the value over the trials where there is one objective alone."""
    objectives = found.objectives
    if len(objectives) == 1:
        return _draw_values(found)
    pairs = list(combinations(objectives, 2))
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(PANEL * columns + 0.6, (PANEL - 0.7) * rows + 0.9), layout="constrained", dpi=120)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels[len(pairs) :]:
        panel.set_visible(False)
    for panel, (first, second) in zip(panels, pairs, strict=False):
        # A cost reads best from left to right.
        x, y = (second, first) if second.smaller_is_better else (first, second)
        _draw_pair(panel, found, x, y)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _draw_pair(panel: Axes, found: SearchOutcome, x: Objective, y: Objective) -> None:
    broken = [t for t in found.trials if not t.feasible and t.values]
    feasible = found.feasible
    if broken:
        panel.scatter(
            *_xy(broken, x, y), s=16, marker="x", c=GREY, linewidths=0.8, label=f"breaks a limit ({len(broken)})"
        )
    panel.scatter(*_xy(feasible, x, y), s=16, c=GREY, alpha=0.7, linewidths=0, label=f"evaluated ({len(feasible)})")
    # With more than two objectives the front of all of them is no staircase in two: draw that of the two too.
    own = sorted(
        (feasible[i] for i in front(points([x, y], [t.values for t in feasible]))), key=lambda t: t.values[x.name]
    )
    more = len(found.objectives) > 2
    panel.step(
        *_xy(own, x, y),
        where="post" if x.smaller_is_better else "pre",
        color=BLUE,
        linewidth=1.2,
        label="best of these two alone" if more else None,
    )
    panel.scatter(
        *_xy(found.front, x, y),
        s=34,
        c=BLUE,
        edgecolors="white",
        linewidths=0.7,
        zorder=3,
        label=f"Pareto front ({len(found.front)})",
    )
    if found.best is not None:
        panel.scatter(
            *_xy([found.best], x, y),
            s=130,
            marker="*",
            c=VERMILION,
            edgecolors="black",
            linewidths=0.6,
            zorder=4,
            label="best",
        )
    _axes(panel, _named(x), _named(y))


def _draw_values(found: SearchOutcome) -> Figure:
    only = found.objectives[0]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained", dpi=120)
    panel = figure.subplots()
    broken = [t for t in found.trials if not t.feasible and t.values]
    for trials, marker, label in ((broken, "x", "breaks a limit"), (found.feasible, "o", "evaluated")):
        if trials:
            values = [only.scale * t.values[only.name] for t in trials]
            label = f"{label} ({len(trials)})"
            panel.scatter([t.number + 1 for t in trials], values, s=16, marker=marker, c=GREY, label=label)
    if found.feasible:
        running = best_so_far(only, found.feasible)
        numbers = [t.number + 1 for t in found.feasible]
        panel.step(
            numbers, [only.scale * v for v in running], where="post", color=BLUE, linewidth=1.5, label="best so far"
        )
    _axes(panel, "trial", _named(only))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_hypervolume(found: SearchOutcome) -> Figure:
    """The share of the box between ideal and reference point that the front so far dominates, over the trials."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained", dpi=120)
    panel = figure.subplots()
    feasible = found.feasible
    curve = hypervolume_curve(points(found.objectives, [t.values for t in feasible]))
    numbers = [*(t.number + 1 for t in feasible), found.trials[-1].number + 1]
    panel.step(numbers, [*curve, curve[-1]], where="post", color=BLUE, linewidth=1.5)
    _axes(panel, "trial", "hypervolume (share of the box)")
    ideal, reference = found.corner_texts()
    panel.set_title(f"box from the ideal point: {ideal}\nto the reference point: {reference}", fontsize=8.5, loc="left")
    panel.set_ylim(0, 1.02)
    return figure


def best_so_far(one: Objective, trials: Sequence[Trial]) -> list[float]:
    """The best value up to each trial."""
    best: list[float] = []
    for trial in trials:
        value = trial.values[one.name]
        best.append(value if not best or one.oriented(value) < one.oriented(best[-1]) else best[-1])
    return best


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")  # a Figure without pyplot is drawn by Agg
    return buffer.getvalue()


def image(content: bytes) -> Image.Image:
    """The bytes of a PNG as an RGB picture."""
    return Image.open(BytesIO(content)).convert("RGB")


def _xy(trials: Sequence[Trial], x: Objective, y: Objective) -> tuple[list[float], list[float]]:
    return [x.scale * t.values[x.name] for t in trials], [y.scale * t.values[y.name] for t in trials]


def _named(one: Objective) -> str:
    return (
        one.label
        if one.label.endswith("better)")
        else f"{one.label}, {'smaller' if one.smaller_is_better else 'larger'} is better"
    )


def _axes(panel: Axes, x: str, y: str) -> None:
    if x == "trial":
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(color="#e6e6e6", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
