"""What is written to a disk: whole or not at all, or line by line; and one process at a time.

Everything that a killed process, a full disk or a power cut must not spoil is written by these functions.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from hashlib import sha256
from pathlib import Path
from platform import node
from typing import IO

from filelock import FileLock, Timeout

from nas.errors import CheckpointError, NasWarning

UNFINISHED = ".unfinished"
"""Behind the name of a file that is being written."""
LOCK, OWNER = "run.lock", "run.owner"
"""In the folder of a run that is being worked on: what is locked, and who holds it."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_PART = 1 << 20


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file that is there whole or not at all: beside its place, synced, renamed.

    A kill meanwhile leaves what was there before, and an unfinished file that the next write replaces.

    Raises:
        OSError: the disk is full or cannot be written; what was there before is intact, and nothing unfinished is left.
    """
    beside = path.with_name(path.name + UNFINISHED)
    try:
        with open(beside, "wb", buffering=0) as file:
            write_all(file, content)
        put(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, data: object) -> None:
    """Write plain data as JSON, whole or not at all; numbers have to be finite."""
    write_whole(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]], comments: str = "") -> None:
    """Write a table as CSV, below lines of comment, whole or not at all."""
    text = io.StringIO()
    text.write(comments)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def write_all(file: IO[bytes], content: bytes | memoryview | str) -> None:
    """Write everything to an unbuffered file; a plain ``file.write`` is cut off silently where the disk is full.

    Raises:
        OSError: it could not; it names the file.
    """
    left = memoryview(content.encode() if isinstance(content, str) else content)
    with _named(file.name):
        while left:
            left = left[os.write(file.fileno(), left) :]


def put(beside: Path, path: Path) -> None:
    """Bring a finished file or folder to its place, for good: what is in it is on the disk before it has its name."""
    for file in [*beside.iterdir(), beside] if beside.is_dir() else [beside]:
        _sync(file)
    os.replace(beside, path)
    _sync(path.parent)


def sync(file: IO[bytes]) -> None:
    """Put what was written to a file on the disk.

    Raises:
        OSError: it could not; it names the file.
    """
    with _named(file.name):
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows keeps folders safe by itself, and opens none
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        with _named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _named(path: object) -> Iterator[None]:
    """System calls on descriptors do not say which file it was."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = sha256()
    with open(path, "rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ one process at a time


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold ``path`` as a lock while the block lasts, unless another process holds it.

    The operating system frees the lock of a killed process, which leaves an empty file behind. A copy is not locked.

    Yields:
        Whether this process holds the lock.

    Warns:
        NasWarning: the file system has no locks, so that nobody can say who else is at work.
    """
    held = FileLock(path, timeout=0)
    try:
        held.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        _warn_if_no_locks(path, error)
    try:
        yield True
    finally:
        with suppress(PermissionError):  # Windows removes the file itself, once it is free
            path.unlink(missing_ok=True)  # while it is held, so that it is not another process's
        held.release()


def shared_lock(path: Path) -> AbstractContextManager[object]:
    """A lock that processes take in turns; the process that holds it may take it again. The file stays.

    Warns:
        NasWarning: the file system has no locks, so that the processes do not wait for each other.
    """
    held = FileLock(path)
    try:
        with held:
            return held
    except OSError as error:
        _warn_if_no_locks(path, error)
        return nullcontext()


def _warn_if_no_locks(path: Path, error: OSError) -> None:
    if error.errno not in _NO_LOCKS:
        raise error
    text = f"{path}: cannot be locked here ({error.strerror}); let one process alone work in this folder"
    warnings.warn(text, NasWarning, stacklevel=4)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Work in a run's folder alone.

    Raises:
        CheckpointError: another process works in it; nothing was changed.
    """
    owner = folder / OWNER
    with lock(folder / LOCK) as free:
        if not free:
            name = owner.read_text().strip() if owner.is_file() else ""
            rule = f"is being worked on by {name or 'another process'}"
            raise CheckpointError("run", folder, rule, "wait for it, or take another run=NAME")
        try:
            with suppress(OSError):  # of a full disk: the lock holds without a name, too
                owner.write_text(f"process {os.getpid()} on {node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            yield
        finally:
            owner.unlink(missing_ok=True)
