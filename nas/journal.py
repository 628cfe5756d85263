"""What a stopped command goes on from: a file of JSON lines that grows while it works.

Each line carries a checksum. A kill or a full disk can leave the last line unfinished; that line is dropped. Any other
damage is one clear error that names the line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from io import FileIO
from pathlib import Path
from typing import Any
from zlib import crc32

from nas.errors import CheckpointError
from nas.files import shared_lock, sync, write_all
from nas.settings.plain import differences

SUM = "crc32"
"""The key of a line's checksum."""
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""What parsing a damaged line raises."""


class Journal:
    """A file of entries, and what a program makes of them.

    The first line says whose journal it is and which settings it belongs to; it is written with the first entry, so
    that a command that is refused leaves no file. What a process has written outlives its being killed; only a power
    cut could take what was written since the last :meth:`sync`.

    Args:
        path: the file.
        kind: the command that writes it, such as ``nas-search``.
        definition: what makes two runs the same, as plain data.
        replay: takes each entry, in the order of the file, as soon as this process reads it. What it raises on an entry
            that makes no sense counts as damage.
        result: a file that is made from the journal; beside it, an empty journal is an error and not a beginning.
        shared: several processes write to the file, in a folder that is there; :attr:`lock` lets one in at a time.
        place: how a user chooses another file, for the errors.

    Attributes:
        lock: a context in which no other process writes; it can be entered again while it is held.

    Raises:
        CheckpointError: the file belongs to other settings or another command, is damaged, or was emptied.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        definition: Mapping[str, Any],
        replay: Callable[[dict[str, Any]], None],
        *,
        result: Path,
        shared: bool = False,
        place: str = "run=NAME",
    ) -> None:
        self.path, self._kind, self._replay, self._place = path, kind, replay, place
        self._definition = json.loads(json.dumps(definition))  # as the file gives it back
        self.lock = shared_lock(path.with_suffix(".lock")) if shared else nullcontext()
        self._read, self._lines = 0, 0  # bytes and lines
        if path.is_file() and not path.stat().st_size and result.is_file():
            rule = f"is empty, but was not when {result.name} was written"
            remedy = f"restore it, delete it to start over, or take another {place}"
            raise CheckpointError("journal", path, rule, remedy)
        self.refresh()

    def refresh(self) -> None:
        """Replay the entries that were written since the last look, by whichever process.

        Raises:
            CheckpointError: a line is damaged, or the first one belongs to other settings.
        """
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # not finished yet, or never to be
                self._take(line)
                self._read, self._lines = self._read + len(line), self._lines + 1

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Write entries and replay them, after those that other processes wrote before.

        Raises:
            OSError: they cannot be written, for example because the disk is full.
        """
        with self.lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file:
                begun = _cut_unfinished_line(file)
                header = [] if begun else [{"journal": self._kind, "definition": self._definition}]
                write_all(file, "".join(map(_line, (*header, *entries))))
            self.refresh()

    def sync(self) -> None:
        """Make sure that a power cut does not take what was written."""
        if self.path.is_file():
            with self.path.open("ab") as file:
                sync(file)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if SUM not in entry:
                raise ValueError("it has no checksum: another program or an older version wrote it")
            if entry.pop(SUM) != _checksum(entry):
                raise ValueError("its checksum is wrong")
            if self._lines:
                self._replay(entry)
                return
            kind, definition = entry["journal"], dict(entry["definition"])
        except _DAMAGE as error:
            rule = f"cannot be read: line {self._lines + 1} is damaged ({error})"
            raise CheckpointError("journal", self.path, rule, f"take another {self._place} to start over") from None
        if kind != self._kind:
            rule = f"is not a journal of {self._kind}"
            raise CheckpointError("journal", self.path, rule, f"take another {self._place}")
        if changed := differences(definition, self._definition):
            rule = f"was begun with other settings ({'; '.join(changed)})"
            remedy = f"take another {self._place}, or the settings it was begun with"
            raise CheckpointError("journal", self.path, rule, remedy)


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps({**entry, SUM: _checksum(entry)}) + "\n"


def _checksum(entry: Mapping[str, Any]) -> int:
    """CRC-32 of an entry as JSON: Python reads numbers back as they were, infinities included."""
    return crc32(json.dumps(entry).encode())


def _cut_unfinished_line(file: FileIO) -> int:
    """Cut what a kill or a full disk has left of a last line; returns the size of what stays, in bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read(1) not in (b"\n", b""):
        file.seek(0)
        size = file.readall().rfind(b"\n") + 1
        os.truncate(file.fileno(), size)
    return size
