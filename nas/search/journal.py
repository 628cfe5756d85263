"""The file that a study lives in: written by several processes, each of which may be killed at any time."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from pathlib import Path
from typing import IO, Any

from optuna.storages.journal import JournalFileBackend


class FileLock:
    """One process at a time; the same process may take it again. The kernel lets go of it for a killed process.

    Optuna's own lock is a file that a killed process leaves behind, and others wait half a minute for.

    Args:
        journal: the file that is guarded. A last line that a full disk or a power cut has left unfinished is cut
            off whenever the lock is taken, before anything is written behind it.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._depth = journal, 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FileLock:
        if self._depth == 0:
            self._file = self._journal.with_suffix(".lock").open("ab")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            _cut_unfinished_line(self._journal)
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._file is not None:
            self._file.close()  # which unlocks it


class JournalFile(JournalFileBackend):
    """Optuna's journal file, but without a sync to the disk for every line: :meth:`sync` is called once a batch.

    What a process has written outlives it when it is killed; only a power cut could take the last batch.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        super().__init__(str(path))  # its own lock is never taken
        self._path, self._guard = path, lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":"), allow_nan=False) + "\n" for log in logs)
        with self._guard, self._path.open("ab", buffering=0) as file:
            file.write(lines.encode())

    def sync(self) -> None:
        """Put everything on the disk."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())


class Worker:
    """A process that works on a journal, and whether others still do: each holds a lock on a file of its own.

    A process id would not do: it is given out again, and says nothing on another machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self.name = uuid.uuid4().hex
        self._file = (folder / self.name).open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def alive(self, name: str) -> bool:
        """Whether the worker of that name is still there."""
        if name == self.name:
            return True
        try:
            with (self._folder / name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # it has said goodbye
            return False
        except BlockingIOError:
            return True
        (self._folder / name).unlink(missing_ok=True)
        return False

    def close(self) -> None:
        """Say goodbye."""
        (self._folder / self.name).unlink(missing_ok=True)
        self._file.close()


def _cut_unfinished_line(path: Path) -> None:
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read(1) not in (b"\n", b""):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
