"""What has been scored already: a file that grows by a line an architecture, so that a stopped run goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import DataError
from nas.files import cut_to, must_not_be_emptied, whole_lines, write_all
from nas.settings.compare import differences


@dataclass(frozen=True)
class Row:
    """One scored architecture.

    Attributes:
        architecture: as the space writes it.
        values: by proxy, the mean over draws of initial weights.
        seconds: for all draws together.
    """

    architecture: str
    values: dict[str, float]
    seconds: float


class Journal:
    """The rows of one run, in memory and on disk.

    The file's first line has the settings; what was cut off at its end by a crash is dropped.

    Args:
        path: of the file; it is made with the first row.
        settings: as plain data: what makes two runs the same.

    Raises:
        DataError: the file has other settings, or is not a journal.
        CheckpointError: it was emptied.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._settings, self.rows = path, settings, list[Row]()
        must_not_be_emptied(path, path.with_suffix(".csv"))
        whole = whole_lines(path)
        try:
            first, *lines = [json.loads(line) for line in whole.splitlines()] or [{"settings": settings}]
            before, rows = dict(first["settings"]), {line["architecture"]: Row(**line) for line in lines}
            self.rows = list(rows.values())
        except (ValueError, TypeError, KeyError):
            raise DataError("run", path, "is not a journal of nas-score", "take another run=NAME") from None
        if changed := differences(before, json.loads(json.dumps(settings))):
            rule = f"was begun with other settings ({'; '.join(changed)})"
            raise DataError("run", path.parent, rule, "take another run=NAME, or the settings it was begun with")
        cut_to(path, len(whole))

    def add(self, row: Row) -> None:
        """Keep a row, at once also on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.is_file() or self.path.stat().st_size == 0
        lines = [{"settings": self._settings}] * new + [vars(row)]  # infinities: as json's reader here takes them
        with self.path.open("ab", buffering=0) as file:
            write_all(file, "".join(json.dumps(line) + "\n" for line in lines))
        self.rows.append(row)
