"""``metrics.jsonl``: every scalar of a run, a line a point. Checkpoints, resuming and ``nas-runs`` rest on it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from nas.errors import NasWarning
from nas.files import sync, write_all

METRICS = "metrics.jsonl"


class MetricsFile:
    """Writes ``metrics.jsonl``.

    Args:
        folder: the run's folder.
        size: what :meth:`flush` returned for the checkpoint that is continued; the file is cut back to it.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        _cut(folder / METRICS, size)
        # Unbuffered: each line is there for `tail -f` at once.
        self._file = (folder / METRICS).open("ab", buffering=0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line."""
        line = json.dumps({"step": step, **values}, allow_nan=False)
        write_all(self._file, line + "\n")

    def lines(self) -> list[dict[str, float]]:
        """All that is written."""
        return [json.loads(line) for line in Path(self._file.name).read_text().splitlines()]

    def flush(self) -> int:
        """Put everything on the disk; returns the length of the file in bytes."""
        sync(self._file)
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cut(path: Path, size: int) -> None:
    """Cut ``path`` to at most ``size`` bytes and to whole lines."""
    there = path.read_bytes() if path.exists() else b""
    if len(there) < size:
        rule = f"has {len(there)} bytes, the checkpoint remembers {size}; its curves will have a gap"
        warnings.warn(f"{path}: {rule}", NasWarning, stacklevel=4)
    kept = there[:size].rfind(b"\n") + 1
    if kept < len(there):
        os.truncate(path, kept)
