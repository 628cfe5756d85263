"""Which classes a network takes for which, as a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nas.draw import draw_confusion
from nas.files import write_csv, write_whole

TABLE, PICTURE = "confusion.csv", "confusion.png"
MOST = 1000
"""Classes: nobody reads a larger table, and it grows with their square."""


def write_confusion(
    folder: Path, labels: Tensor, predicted: Tensor, classes: Sequence[str], title: str, picture: bool = True
) -> None:
    """Write ``confusion.csv``, a row a true class with its images and its recall, and ``confusion.png``.

    With more than 1,000 classes nothing is written.

    Args:
        folder: where to.
        labels: of all test images, ints ``(N,)``.
        predicted: likewise, what a network takes them for.
        classes: their names.
        title: what stands over the picture, before accuracy and mean recall.
        picture: draw it.
    """
    for name in (TABLE, PICTURE):
        (folder / name).unlink(missing_ok=True)  # of a run that was shorter
    if (many := len(classes)) > MOST:
        return
    counts = torch.bincount(labels * many + predicted, minlength=many**2).view(many, many)
    right, sums = counts.diag().tolist(), counts.sum(1).tolist()
    recalls = [r / n if n else None for r, n in zip(right, sums, strict=True)]
    rows = zip(classes, counts.tolist(), sums, recalls, strict=True)
    table = [[name, *row, n, "" if recall is None else f"{recall:.4f}"] for name, row, n, recall in rows]
    write_csv(folder / TABLE, ["true class", *classes, "images", "recall"], table)
    if picture:
        known = [recall for recall in recalls if recall is not None]
        accuracy, mean = sum(right) / len(labels), sum(known) / len(known)
        text = f"{title}\n{accuracy:.1%} of {len(labels):,} test images, mean recall {mean:.1%}"
        write_whole(folder / PICTURE, draw_confusion(counts, classes, text))
