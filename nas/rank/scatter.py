"""Predictions against the truth, a panel a predictor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image
from scipy import stats
from torch import Tensor

from nas.rank.predictions import Prediction
from nas.rank.ranking import Ranking
from nas.score.correlation import best
from nas.score.truth import Truth

BLUE, ORANGE, INK, GREY = "#0072b2", "#d55e00", "#1f2d3d", "#7a8796"  # Okabe and Ito: told apart by everybody
COLUMNS = 4
WIDTH, HEIGHT = 3.3, 3.0  # of a panel, in inches


def draw(predictions: Sequence[Prediction], ranking: Ranking, truth: Truth) -> Image.Image:
    """A picture in the order of the ranking's rows.

    Upwards the true accuracy, with a bar of one standard error where there are several trainings; to the right the
    prediction, the mean over its draws, turned so that better is always on the right.
    """
    by_name = {prediction.name: prediction for prediction in predictions}
    columns = min(COLUMNS, len(ranking.rows))
    rows = math.ceil(len(ranking.rows) / columns)
    figure = Figure(figsize=(WIDTH * columns + 0.3, HEIGHT * rows + 0.55), layout="constrained", dpi=110)
    canvas = FigureCanvasAgg(figure)
    for index, row in enumerate(ranking.rows):
        axes = figure.add_subplot(rows, columns, index + 1)
        _panel(axes, by_name[row.name], truth)
        c = row.correlation
        axes.set_title(f"{row.name}\ntau {c.tau:.2f} [{c.tau_low:.2f}, {c.tau_high:.2f}]", fontsize=10, color=INK)
        axes.tick_params(labelleft=index % columns == 0)
        if index % columns == 0:
            axes.set_ylabel("accuracy, trained from scratch (%)", fontsize=8.5, color=INK)
    bars = "; bars: standard error" if _has_bars(truth) else ""
    note = (
        f"Predicted better to the right. Orange squares: the truly best {len(best(truth.mean))}; ring: the pick{bars}."
    )
    figure.supxlabel(note, fontsize=9, color=INK)
    data = BytesIO()
    canvas.print_png(data)
    return Image.open(data).convert("RGB")


def _panel(axes: Axes, prediction: Prediction, truth: Truth) -> None:
    x, y = _drawable(prediction.values), 100 * truth.mean
    if _squashed(x):
        x = torch.from_numpy(stats.rankdata(x.numpy()))
        axes.set_xlabel("by rank, since the values crowd", fontsize=8, color=GREY)
    top = torch.zeros(len(y), dtype=torch.bool)
    top[best(truth.mean)] = True
    size = 22 if len(y) <= 300 else 7
    if _has_bars(truth):
        error = 100 * truth.accuracies.std(dim=1) / math.sqrt(truth.accuracies.shape[1])
        axes.errorbar(x, y, yerr=error, fmt="none", ecolor=GREY, elinewidth=0.7, alpha=0.7, zorder=1)
    for mask, colour, marker in ((~top, BLUE, "o"), (top, ORANGE, "s")):
        axes.scatter(x[mask], y[mask], color=colour, marker=marker, s=size, alpha=0.75, linewidths=0, zorder=2)
    goodness = prediction.goodness.mean(dim=0)
    chosen = int(goodness.argmax())
    axes.scatter(x[chosen], y[chosen], s=90, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=3)
    if prediction.lower_is_better:
        axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if prediction.kind == "trivial":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color=GREY, alpha=0.18, linewidth=0.6)


def _has_bars(truth: Truth) -> bool:
    """Not where they would hide the points, and not for a single training."""
    architectures, seeds = truth.accuracies.shape
    return seeds > 1 and architectures <= 1000


def _drawable(values: Tensor) -> Tensor:
    """The mean over draws; infinities go a tenth of the range beyond the finite values."""
    finite = values[values.isfinite()]
    low, high = (finite.min(), finite.max()) if len(finite) else (torch.zeros(()), torch.zeros(()))
    margin = float(high - low) / 10 or 1.0
    return values.nan_to_num(posinf=float(high) + margin, neginf=float(low) - margin).mean(dim=0)


def _squashed(x: Tensor) -> bool:
    """Whether a few values far off would press all others into a line."""
    low, first, third, high = x.quantile(torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=x.dtype)).tolist()
    return high - low > 12 * (third - first)
