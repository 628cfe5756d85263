"""Predictions against the truth, a panel a predictor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nas.draw.figure import BLUE, GREY, INK, ORANGE, SMALL, TEXT, new_figure, style, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
WIDTH, HEIGHT = 3.1, 3.0
"""Of a panel, in inches."""


@dataclass(frozen=True)
class Panel:
    """One predictor.

    Attributes:
        title: one or two lines.
        values: ``(draws, architectures)``, finite or not.
        pick: index of the architecture that it predicts to be the best.
        lower_is_better: turns the axis, so that better is always on the right.
        engineering: numbers as 1.2M.
    """

    title: str
    values: Tensor
    pick: int
    lower_is_better: bool = False
    engineering: bool = False


def draw_scatter(panels: Sequence[Panel], accuracy: Tensor, error: Tensor | None, top: Tensor) -> bytes:
    """Upwards the true accuracy, to the right the prediction, the mean over its draws, as a PNG.

    Args:
        panels: the predictors, in this order.
        accuracy: ``(architectures,)``, of the table, in percent.
        error: its standard error, drawn as bars; None for none.
        top: ``(architectures,)``, bool: the truly best ones.
    """
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(max(WIDTH * columns + 0.3, 5.4), HEIGHT * rows + 0.6)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        first = index % columns == 0
        _draw_panel(axes, panel, accuracy, error, top)
        axes.set_ylabel("accuracy, trained from scratch (%)" if first else "", fontsize=SMALL, color=INK)
        axes.tick_params(labelleft=first)
    bars = "; bars: standard error" if error is not None else ""
    note = f"Predicted better to the right. Orange squares: the truly best {int(top.sum())}; ring: the pick{bars}."
    figure.supxlabel(note if columns > 1 else note.replace(". ", ".\n"), fontsize=TEXT, color=INK)
    return to_png(figure)


def _draw_panel(axes: Axes, panel: Panel, y: Tensor, error: Tensor | None, top: Tensor) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator
    from scipy import stats

    x = finite_mean(panel.values)
    if crowded := is_squashed(x):
        x = torch.from_numpy(stats.rankdata(x.numpy()))
    style(axes, "by rank, since the values crowd" if crowded else "predicted")
    axes.set_title(panel.title, fontsize=TEXT, color=INK)
    size = 22 if len(y) <= 300 else 7
    if error is not None:
        axes.errorbar(x, y, yerr=error, fmt="none", ecolor=GREY, elinewidth=0.7, alpha=0.7, zorder=1)
    for mask, colour, marker in ((~top, BLUE, "o"), (top, ORANGE, "s")):
        axes.scatter(x[mask], y[mask], color=colour, marker=marker, s=size, alpha=0.75, linewidths=0, zorder=2)
    axes.scatter(x[panel.pick], y[panel.pick], s=90, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=3)
    if panel.lower_is_better:
        axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if panel.engineering and not crowded:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def finite_mean(values: Tensor) -> Tensor:
    """The mean over draws; infinities go a tenth of the range beyond the finite values."""
    finite = values[values.isfinite()]
    low, high = (finite.min(), finite.max()) if len(finite) else (torch.zeros(()), torch.zeros(()))
    margin = float(high - low) / 10 or 1.0
    return values.nan_to_num(posinf=float(high) + margin, neginf=float(low) - margin).mean(dim=0)


def is_squashed(x: Tensor) -> bool:
    """Whether a few values far off would press all others into a line."""
    low, first, third, high = x.quantile(torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=x.dtype)).tolist()
    return bool(high - low > 12 * (third - first))
