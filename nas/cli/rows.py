"""What became of the runs of a sweep: read from their folders, as a table and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.files import write_whole

FAILED = "failed.txt"
"""In the folder of a run that failed: the reason in one line; under it the traceback of a bug."""
ROW = "row.json"
"""In the folder of a run that has finished: what the table says of it."""
TABLE = "sweep.json"
"""In the folder of a sweep."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        run: the overrides in which it differs from other runs.
        folder: as an absolute path.
        overrides: all words that it is composed with.
    """

    run: str
    folder: str
    overrides: list[str]


def read_row(run: Planned) -> dict[str, Any]:
    """What its folder says of a run: its state, the figures of a finished one, the reason why one failed."""
    row, failed = Path(run.folder, ROW), Path(run.folder, FAILED)
    found: dict[str, Any]
    if failed.is_file():
        found = {"error": failed.read_text().partition("\n")[0], "state": "failed"}
    elif row.is_file():
        found = {**json.loads(row.read_text()), "error": None, "state": "finished"}
    else:
        found = {"error": None, "state": "unfinished"}
    return asdict(run) | found


def summarize(runs: Sequence[Planned], folder: Path) -> bool:
    """Print a table of the runs and write it to the sweep's folder, whole or not at all.

    Returns:
        Whether all runs are finished.
    """
    from nas.console import ResultTable, new_console

    rows = [read_row(run) for run in runs]
    known = ("run", "folder", "overrides", "error", "state")
    found = list(dict.fromkeys(key for row in rows for key in row if key not in known))
    names = [name for name in found if name in ("architecture", "predictor")]
    figures = [name for name in found if name not in names]
    heads = [name.replace("_per_s", "/s").replace("_", " ") for name in figures]
    table = ResultTable("Sweep", ["run", "state", *names], heads)
    for row in rows:
        table.add_row(row["run"], row["state"], *(_cell(name, row) for name in (*names, *figures)))
    out = new_console()
    out.print(table)
    for row in rows:
        if row["error"] is not None:
            out.print(f"{row['run']}: {row['error']}")
    out.print(f"sweep: {folder}")
    if folder.is_dir():  # else no run began
        write_whole(folder / TABLE, json.dumps({"runs": [dict.fromkeys(found) | row for row in rows]}, indent=1) + "\n")
    return all(row["state"] == "finished" for row in rows)


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name)
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:.1%}" if "accuracy" in name else f"{value:,.0f}" if name.endswith("_per_s") else f"{value:.4g}"
