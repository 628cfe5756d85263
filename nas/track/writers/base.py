"""What a writer is: a class of your own derives from it, and ``track.writers=[my_pkg.my:MyWriter]`` uses it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

EVENTS = "events.out.tfevents."
"""What TensorBoard's files begin with."""


class Writer:
    """Takes what a run logs. Every method does nothing here, so that one of your own has only those that it needs.

    A run goes on from its last checkpoint after a kill, and gives the points behind that once more, with the same
    values. A writer whose service keeps both has to leave out those that it has.

    Args:
        folder: the run's folder, which is there; a writer may keep files of its own in it.
        step: the step that the run goes on from; 0 for a new run, also where an earlier one was in this folder.
    """

    def __init__(self, folder: Path, step: int = 0) -> None: ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point for each tag, as in ``{"train/loss": 1.2}``; all values are finite.

        Steps do not decrease. A step may come more than once, with other tags.
        """

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Write a text in Markdown."""

    def image(self, tag: str, png: bytes, step: int = 0) -> None:
        """Write an image, given as the bytes of a PNG."""

    def layout(self, charts: Mapping[str, Mapping[str, str]]) -> None:
        """Write which curves share a chart: category -> chart -> regex of the beginnings of tags."""

    def hparams(self, params: Mapping[str, Any], given: Collection[str]) -> None:
        """Write a new run's settings, which a run that goes on has already.

        Args:
            params: all of them, plain data by name, as in ``{"gate": "fair", "train.epochs": 9}``.
            given: the names of those that somebody has given, or that are not at their defaults.
        """

    def flush(self) -> None:
        """Bring to safety what was written: a checkpoint comes now."""

    def close(self) -> None:
        """Write what is left and close everything: the run has ended, or stops for now."""
