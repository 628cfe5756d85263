"""What became of the runs of a sweep: read from their folders, as a table and as a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.files import write_whole

FAILED = "failed.txt"
"""In the folder of a run of a sweep that failed: the reason in one line; under it the traceback of a bug."""
TABLE = "sweep.json"
"""In the folder of a sweep."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        name: the overrides in which it differs from other runs.
        folder: as an absolute path.
        overrides: all words that it is composed with.
    """

    name: str
    folder: str
    overrides: list[str]


@dataclass(frozen=True)
class Row:
    """What became of one run.

    Attributes:
        run: the overrides in which it differs from other runs.
        folder: of the run, as an absolute path.
        overrides: all words that it was composed with.
        architecture: the one that is best on validation pictures; the accuracies, 0 to 1, are its own.
        images_per_s: None for networks that were trained alone.
        error: in one line; None if there is none.
    """

    run: str
    folder: str
    overrides: list[str]
    architecture: str | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    images_per_s: float | None = None
    error: str | None = None

    @property
    def state(self) -> str:
        """``finished``, ``failed`` or ``unfinished``."""
        if self.error is not None:
            return "failed"
        return "unfinished" if self.architecture is None else "finished"


def read_row(run: Planned) -> Row:
    """What its folder says of a run; neither a reason nor a report there means that it is unfinished."""
    folder, own = Path(run.folder), (run.name, run.folder, run.overrides)
    if (folder / FAILED).is_file():
        return Row(*own, error=(folder / FAILED).read_text().partition("\n")[0])
    for name, part in ("report.json", "subnetworks"), ("retrain.json", "rows"):
        if (folder / name).is_file():
            try:
                report: dict[str, Any] = json.loads((folder / name).read_text())
                best, speed = report[part][0], report.get("images_per_s")
                accuracies = float(best["val_accuracy"]), float(best["test_accuracy"])
                return Row(*own, str(best["architecture"]), *accuracies, None if speed is None else float(speed))
            except (ValueError, LookupError, TypeError):
                rule = f"{folder / name}: is damaged; delete it and start the same command again"
                return Row(*own, error=rule)
    return Row(*own)


def summary(runs: Sequence[Planned], folder: Path) -> bool:
    """Print a table of the runs and write it to the sweep's folder, whole or not at all.

    Returns:
        Whether a run is failed or unfinished.
    """
    from rich.console import Console
    from rich.table import Table

    rows = [read_row(run) for run in runs]
    table = Table(title="Sweep: the subnetwork that is best on validation pictures", title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("architecture", overflow="fold")
    for name in ("val accuracy", "test accuracy", "images/s"):
        table.add_column(name, justify="right")
    for row in rows:
        accuracies = ["-" if x is None else f"{x:.1%}" for x in (row.val_accuracy, row.test_accuracy)]
        speed = "-" if row.images_per_s is None else f"{row.images_per_s:,.0f}"
        table.add_row(row.run, row.architecture or row.state, *accuracies, speed)
    out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    out.width = max(out.width, 120)
    out.print(table)
    for row in rows:
        if row.error is not None:
            out.print(f"{row.run}: {row.error}")
    out.print(f"sweep: {folder}")
    if folder.is_dir():  # else no run began
        data = {"runs": [{**asdict(row), "state": row.state} for row in rows]}
        write_whole(folder / TABLE, json.dumps(data, indent=1) + "\n")
    return any(row.state != "finished" for row in rows)
