"""The file that a study lives in: written by several processes, each of which may be killed at any time."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any
from zlib import crc32

from optuna.storages.journal import JournalFileBackend

from nas.errors import CheckpointError
from nas.files import sync, try_lock, write_all

SUM = "crc32"


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
            try_lock(self._file, wait=True)
            _cut_unfinished_line(self._journal)
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._file is not None:
            self._file.close()  # which unlocks it


class JournalFile(JournalFileBackend):
    """Optuna's journal file, but without a sync to the disk for every line: :meth:`sync` is called once a batch.

    What a process has written outlives it when it is killed; only a power cut could take the last batch. Each line has
    a checksum as one more entry, which others that read such journals pass over.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        super().__init__(str(path))  # its own lock is never taken
        self._path, self._guard = path, lock
        self._begins = [0]
        """Where each line that was read begins, and then the next one."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(_dumps({**log, SUM: _sum(log)}) + "\n" for log in logs)
        with self._guard, self._path.open("ab", buffering=0) as file:
            write_all(file, lines)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The lines from that number on; one that is not finished yet is left for the next time.

        Raises:
            CheckpointError: a line is damaged.
        """
        known = min(log_number_from, len(self._begins) - 1)
        with self._path.open("rb") as file:
            file.seek(self._begins[known])
            for number, line in enumerate(file, known):
                if not line.endswith(b"\n"):
                    return
                if number + 1 == len(self._begins):
                    self._begins.append(self._begins[-1] + len(line))
                if number >= log_number_from:
                    yield self._log(number, line)

    def _log(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            log = json.loads(line)
            if not isinstance(log, dict) or log.pop(SUM, None) not in (None, _sum(log)):  # older ones have none
                raise ValueError("it has another checksum")
        except (ValueError, RecursionError) as error:
            rule = f"cannot be read: line {number + 1} is damaged ({error})"
            raise CheckpointError("journal", self._path, rule, "take another run=NAME to begin anew") from None
        return log

    def sync(self) -> None:
        """Put everything on the disk."""
        with self._path.open("rb") as file:
            sync(file)


class Worker:
    """A process that works on a journal, and whether others still do: each holds a lock on a file of its own.

    A process id would not do: it is given out again, and says nothing on another machine.

    Args:
        folder: of the workers; the journal has to be locked, so that nobody looks between a file's making and locking.
    """

    name = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        for other in folder.iterdir():
            self.alive(other.name)  # removes those of killed ones
        self.name = uuid.uuid4().hex
        self._file = (folder / self.name).open("ab")
        try_lock(self._file)

    def alive(self, name: str) -> bool:
        """Whether the worker of that name is still there."""
        if name == self.name:
            return True
        try:
            with (self._folder / name).open("rb+") as file:
                if not try_lock(file):
                    return True
        except FileNotFoundError:  # it has said goodbye
            return False
        (self._folder / name).unlink(missing_ok=True)
        return False

    def close(self) -> None:
        """Say goodbye."""
        (self._folder / self.name).unlink(missing_ok=True)
        self._file.close()


def _dumps(log: dict[str, Any]) -> str:
    return json.dumps(log, separators=(",", ":"), allow_nan=False)


def _sum(log: dict[str, Any]) -> int:
    """Of a line, as it is written: Python reads numbers back as they were."""
    return crc32(_dumps(log).encode())


def _cut_unfinished_line(path: Path) -> None:
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read(1) not in (b"\n", b""):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
