"""The runs of a sweep, and what became of them: read from their folders, as lines, as a table and as a file."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from nas.files import write_whole

if TYPE_CHECKING:
    from omegaconf import DictConfig

FAILED = "failed.txt"
"""In the folder of a run that failed: the reason in one line; under it the traceback of a bug."""
ROW = "row.json"
"""In the folder of a run that has finished: what the table says of it."""
TABLE = "sweep.json"
"""In the folder of a sweep."""
LOOK_S = 0.5
"""Between two looks at whether runs have ended."""
_KNOWN = ("run", "folder", "overrides", "error", "state", "seconds")
"""What a row has beside its figures."""


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


def planned(config: DictConfig, runs: Sequence[Sequence[str]], fixed: Collection[str], first: int = 0) -> list[Planned]:
    """Runs composed as Hydra's launchers compose them.

    Args:
        config: of the sweep.
        runs: the words of each.
        fixed: words that all have in common.
        first: number of the first one.
    """
    loader = GlobalHydra.instance().config_loader()
    _ = config.hydra.sweep.dir  # resolved once, here: it may have the time in it, which the runs then have in common
    found, before = [], HydraConfig.instance().cfg
    for number, given in enumerate(runs, first):
        one = loader.load_sweep_config(config, list(given))
        with open_dict(one):
            one.hydra.job.id = one.hydra.job.num = number
        HydraConfig.instance().set_config(one)  # for ${hydra:...}
        try:
            folder = os.path.abspath(os.path.join(one.hydra.sweep.dir, one.hydra.sweep.subdir))
        finally:
            HydraConfig.instance().cfg = before
        words = list(one.hydra.overrides.task)
        name = ",".join(word for word in words if word not in fixed).replace("\\:", ":")  # Hydra escapes it: mine\:loss
        found.append(Planned(name or Path(folder).name, folder, words))
    return found


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


def summarize(runs: Sequence[Planned], folder: Path, note: str = "") -> bool:
    """Print a table of the runs, with a line below it, and write it to the sweep's folder, whole or not at all.

    Returns:
        Whether all runs are finished.
    """
    from nas.console import ResultTable, new_console

    rows = [read_row(run) for run in runs]
    found = list(dict.fromkeys(key for row in rows for key in row if key not in _KNOWN))
    names = [name for name in found if name in ("architecture", "predictor")]
    figures = [name for name in found if name not in names]
    table = ResultTable("Sweep", ["run", "state", *names], [_head(name) for name in figures])
    for row in rows:
        table.add_row(row["run"], row["state"], *(_cell(name, row) for name in (*names, *figures)))
    out = new_console()
    out.print(table)
    for row in rows:
        if row["error"] is not None:
            out.print(f"{row['run']}: {row['error']}")
    if note:
        out.print(note)
    out.print(f"sweep: {folder}")
    if folder.is_dir():  # else no run began
        write_whole(folder / TABLE, json.dumps({"runs": [dict.fromkeys(found) | row for row in rows]}, indent=1) + "\n")
    return all(row["state"] == "finished" for row in rows)


class Watch:
    """Prints a line for each run of a sweep as soon as its folder says that it has ended, whoever carries it out.

    Args:
        job: the command.
        total: runs that the sweep has.
        ended: how many of them ended before.
    """

    def __init__(self, job: str, total: int, ended: int = 0) -> None:
        self._job, self.total, self.ended = job, total, ended
        self._waiting: list[tuple[Planned, object]] = []
        self._lock, self._closed = threading.Lock(), threading.Event()

    def add(self, runs: Sequence[Planned]) -> None:
        """Watch these, too; what a folder says already is of an earlier time."""
        with self._lock:
            self._waiting += [(run, _stamp(run)) for run in runs]

    def look(self) -> None:
        """Print what has not been printed yet."""
        with self._lock:
            for run, before in list(self._waiting):
                row = read_row(run) if _stamp(run) not in (None, before) else {"state": "unfinished"}
                if row["state"] != "unfinished":
                    self._waiting.remove((run, before))
                    self.ended += 1
                    self._print(row)

    def look_on(self) -> None:
        """Look every :data:`LOOK_S` seconds, in a thread of its own, until :meth:`close`."""
        threading.Thread(target=self._look_on, daemon=True).start()

    def close(self) -> None:
        """Look a last time."""
        self._closed.set()
        self.look()

    def _look_on(self) -> None:
        try:
            while not self._closed.wait(LOOK_S):
                self.look()
        except BrokenPipeError:
            return  # nobody reads on; the main thread finds that out too

    def _print(self, row: Mapping[str, Any]) -> None:
        # One write for each line: others print to the same terminal.
        if row["error"] is not None:
            bug = Path(row["folder"], FAILED)
            more = f" (in {bug})" if len(bug.read_text().splitlines()) > 1 else ""
            sys.stderr.write(f"{self._job}: {row['run']}: {row['error']}{more}\n")
            sys.stderr.flush()
            return
        seconds = row["seconds"]
        took = f"{seconds:.2g} s" if seconds < 99 else str(timedelta(seconds=round(seconds)))
        sys.stdout.write("  ".join([f"{self.ended} of {self.total}", row["run"], *first_said(row), took]) + "\n")
        sys.stdout.flush()


def first_figure(row: Mapping[str, Any]) -> float | None:
    """The first number of a row, which a Hydra sweeper may optimise; None if there is none."""
    numbers = (value for value in row.values() if isinstance(value, (int, float)) and not isinstance(value, bool))
    return next(map(float, numbers), None)


def first_said(row: Mapping[str, Any]) -> list[str]:
    """The :func:`first_figure` of a row with its name, as in ``val accuracy 97.2%``; nothing if there is none."""
    names = [name for name in row if name not in _KNOWN and first_figure({name: row[name]}) is not None]
    return [f"{_head(name)} {_cell(name, row)}" for name in names[:1]]


def _stamp(run: Planned) -> object:
    """What tells the file that says how a run has ended from an older one; None if there is none."""
    for name in (FAILED, ROW):
        path = Path(run.folder, name)
        if path.is_file():
            return name, path.stat().st_ino, path.stat().st_mtime_ns
    return None


def _head(name: str) -> str:
    return name.replace("_per_s", "/s").replace("_", " ")


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name)
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:.1%}" if "accuracy" in name else f"{value:,.0f}" if name.endswith("_per_s") else f"{value:.4g}"
