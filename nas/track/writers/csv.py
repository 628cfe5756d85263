"""``metrics.csv``: a row a step's line of ``metrics.jsonl``, a column a tag."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from nas.files import write_all, write_csv
from nas.track.writers.base import Writer
from nas.track.writers.metrics import METRICS

CSV = "metrics.csv"


class CsvWriter(Writer):
    """Writes ``metrics.csv``; a cell is empty where a line has no such tag.

    A tag that comes up later becomes a new column, for which the file is written anew out of ``metrics.jsonl``: that
    happens two or three times in a run. So it is when a run goes on, which drops what was written after its checkpoint.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._folder = folder
        self._rewrite()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if values.keys() - set(self._columns):
            self._file.close()
            self._rewrite()
            return
        row = io.StringIO()
        csv.writer(row, lineterminator="\n").writerow(_cells(self._columns, {"step": step, **values}))
        write_all(self._file, row.getvalue())

    def close(self) -> None:
        self._file.close()

    def _rewrite(self) -> None:
        lines = [json.loads(line) for line in (self._folder / METRICS).read_text().splitlines()]
        self._columns = list(dict.fromkeys(["step", *(tag for line in lines for tag in line)]))
        write_csv(self._folder / CSV, self._columns, [_cells(self._columns, line) for line in lines])
        self._file: IO[bytes] = (self._folder / CSV).open("ab", buffering=0)


def _cells(columns: list[str], line: Mapping[str, float]) -> list[float | str]:
    return [line.get(tag, "") for tag in columns]
