"""What has been computed already: a file that grows by a line an architecture, so that a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from nas.errors import DataError
from nas.files import cut_to, must_not_be_emptied, whole_lines, write_all


class Journal:
    """Values by what they depend on and by architecture, in memory and in a file.

    What a value depends on (checkpoint, split, seed, ...) is part of its key. So nothing stale is ever found, and
    predictors can be added to a run.

    Args:
        path: of the file; what is there is read. A last line that was cut off is dropped.

    Raises:
        DataError: there is a file of that name which is no journal.
        CheckpointError: it was emptied.
    """

    def __init__(self, path: Path) -> None:
        self._values: dict[tuple[str, str], dict[str, float]] = {}
        must_not_be_emptied(path, path.with_name("rank.csv"))
        whole = whole_lines(path)
        try:
            for line in whole.splitlines():
                key, architecture, values = json.loads(line)
                self._values.setdefault((key, architecture), {}).update(values)
        except (ValueError, TypeError):
            raise DataError("run", path, "is not a journal of nas-rank", "take another run=NAME") from None
        cut_to(path, len(whole))
        self._path = path
        self._file: IO[bytes] | None = None

    def find(self, key: str, architecture: str) -> dict[str, float]:
        """The values that are known, by name; none at all gives an empty dict."""
        return self._values.get((key, architecture), {})

    def add(self, key: str, architecture: str, values: Mapping[str, float]) -> None:
        """Note values, at once also on the disk."""
        self._values.setdefault((key, architecture), {}).update(values)
        if self._file is None:  # a run that is refused before its first value leaves no file
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        write_all(self._file, json.dumps([key, architecture, dict(values)]) + "\n")  # a proxy may be infinite

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def key_of(kind: str, **depends_on: Any) -> str:
    """A short key: a name for people, and a digest of everything that values depend on, as plain data."""
    text = json.dumps(depends_on, sort_keys=True)
    return f"{kind}-{blake2b(text.encode(), digest_size=6).hexdigest()}"
