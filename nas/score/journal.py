"""What has been scored already: a file that grows by a line an architecture, so that a stopped run goes on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import DataError


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
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._settings, self.rows = path, settings, list[Row]()
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        try:
            first, *lines = [json.loads(line) for line in whole.splitlines()] or [{"settings": settings}]
            # By name: two processes on one run, which nothing stops, have scored the same ones.
            before, rows = dict(first["settings"]), {line["architecture"]: Row(**line) for line in lines}
            self.rows = list(rows.values())
        except (ValueError, TypeError, KeyError):
            raise DataError("run", path, "is not a journal of nas-score", "take another run=NAME") from None
        old, new = _flat(before), _flat(json.loads(json.dumps(settings)))
        changed = [
            f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)
        ]
        if changed:
            rule = f"was begun with other settings ({'; '.join(changed)})"
            raise DataError("run", path.parent, rule, "take another run=NAME, or the settings it was begun with")
        if whole != data:
            os.truncate(path, len(whole))

    def add(self, row: Row) -> None:
        """Keep a row, at once also on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.is_file() or self.path.stat().st_size == 0
        with self.path.open("a") as file:
            if new:
                file.write(json.dumps({"settings": self._settings}) + "\n")
            file.write(json.dumps(vars(row)) + "\n")  # infinities are written as json's reader here takes them
        self.rows.append(row)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
