"""Which classes are taken for which: a matrix of colours, with numbers in it where there is room."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nas.draw.figure import BLUE, GREY, INK, LINE, ORANGE, SMALL, TEXT, new_figure, to_png
from nas.draw.names import shorten

NUMBERED, NAMED = 12, 100
"""Classes of which each cell has its number; classes of which each has its name."""
WIDEST = 9.4
"""Inches of the matrix."""


def draw_confusion(counts: Tensor, classes: Sequence[str], title: str) -> bytes:
    """A row a true class, a column a predicted one, as a PNG; at the end of a row the recall of its class.

    Shares of a row are shown: blue where the class is right, orange where it is another one, for which the scale is the
    root, so that a hundredth is seen.

    Args:
        counts: int64 ``(K, K)``, images of true class i that are taken for class j.
        classes: their names.
        title: lines above; below them stands what is confused most often.
    """
    import numpy as np
    from matplotlib.colors import to_rgb

    table, many = counts.numpy(), len(classes)
    sums = table.sum(1, keepdims=True)
    shares = table / np.maximum(sums, 1)
    right = np.eye(many, dtype=bool)
    depth = np.where(right, shares, np.sqrt(shares))[..., None]
    colours = 1 - depth * (1 - np.where(right[..., None], to_rgb(BLUE), to_rgb(ORANGE)))

    side = min(max(2.6, 0.5 * many), WIDEST)
    letters = min(SMALL, 0.85 * 72 * side / many * max(1, many / NAMED))
    figure = new_figure(side + 2.2, side + 2.2)
    axes = figure.add_subplot()
    axes.imshow((255 * colours).round().astype("uint8"), interpolation="nearest" if many <= NAMED else "antialiased")
    shown = range(0, many, -(-many // NAMED))
    names = [shorten(classes[k], 16) for k in shown]
    axes.set_xticks(shown, names, rotation=90 if max(map(len, names)) > 3 or many > 40 else 0, parse_math=False)
    axes.set_yticks(shown, names, parse_math=False)
    axes.tick_params(labelsize=letters, colors=INK, length=0)
    axes.set_xlabel("predicted class", fontsize=TEXT, color=INK)
    axes.set_ylabel("true class", fontsize=TEXT, color=INK)
    axes.spines[:].set(color=LINE)
    if many <= 3 * NUMBERED:
        for k in range(1, many):
            axes.axhline(k - 0.5, color=LINE, linewidth=0.5)
            axes.axvline(k - 0.5, color=LINE, linewidth=0.5)
    for k in shown:
        recall = f"{shares[k, k]:.0%}" if sums[k] else "-"
        axes.text(many - 0.5 + 0.01 * many, k, recall, fontsize=letters, color=INK, va="center")
    axes.text(1.01, 1.01, "recall", transform=axes.transAxes, fontsize=SMALL, color=GREY)
    if many <= NUMBERED:
        for i, j in zip(*table.nonzero(), strict=True):
            ink = "white" if depth[i, j, 0] > (0.55 if i == j else 0.8) else INK
            axes.text(j, i, f"{table[i, j]}", ha="center", va="center", fontsize=SMALL, color=ink)
    wrong = np.where(right, 0, table)
    often = [divmod(int(k), many) for k in np.argsort(-wrong, axis=None, kind="stable")[:3]]
    short = [shorten(name, 18) for name in classes]
    said = [
        f"{short[i]} taken for {short[j]}: {'once' if wrong[i, j] == 1 else f'{wrong[i, j]} times'}"
        for i, j in often
        if wrong[i, j]
    ]
    lines = [shorten(line, int(12 * side + 24)) for line in (*title.splitlines(), *said)]
    figure.suptitle("\n".join(lines), x=0.02, ha="left", fontsize=TEXT, color=INK, parse_math=False)
    return to_png(figure)
