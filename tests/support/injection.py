"""Faults that are injected for real: a process that the kernel kills at a chosen write, a disk that is full from there.

Whatever has to survive is written through ``os.write`` and its kin in :mod:`nas.files`; here they are counted, and the
chosen one is cut in the middle.
"""

import errno
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

NAMES = ("write", "fsync", "replace", "rename", "unlink", "truncate")
FORK = multiprocessing.get_context("fork")
"""Torch is imported already; nothing here has started threads."""
_numbers = itertools.count()


@contextmanager
def disk(do: Callable):
    """While this lasts every operation on the disk goes through ``do(number, name, call, arguments)``."""
    before = {name: getattr(os, name) for name in NAMES}
    count = itertools.count()

    def watched(name):
        return lambda *args, **more: do(next(count), name, lambda *args: before[name](*args, **more), args)

    for name in NAMES:
        setattr(os, name, watched(name))
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(os, name, call)


def operations(work: Callable) -> list[str]:
    """Do ``work`` undisturbed; what it did to the disk, as in ``write metrics.jsonl``."""
    found = []

    def note(number, name, call, args):
        place = Path(os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else args[0]).name
        found.append(f"{name} {place}")
        return call(*args)

    with disk(note):
        work()
    return found


def stages(done: list[str]) -> list[tuple[int, bool]]:
    """Every moment to be killed at: before each operation and, of a write, when half of its bytes are there."""
    halves = [(False, True) if name.startswith("write") else (False,) for name in done]
    return [(i, half) for i, both in enumerate(halves) for half in both]


def killed(work: Callable, at: int, half: bool) -> bool:
    """Do ``work`` in a process that the kernel kills at its operation ``at``; False if it came to its end instead."""

    def kill(number, name, call, args):
        if number == at:
            if half and name == "write":
                call(args[0], bytes(args[1])[: max(len(args[1]) // 2, 1)])
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)

    def child():
        with disk(kill):
            work()

    process = FORK.Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


@contextmanager
def full_disk(at: int):
    """A disk that is full from operation ``at`` on: a write there is cut short, all others fail; removing works."""

    def fill(number, name, call, args):
        if number < at or name in ("unlink", "truncate"):
            return call(*args)
        if number == at and name == "write" and len(args[1]) > 1:
            return call(args[0], bytes(args[1])[: len(args[1]) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), None if isinstance(args[0], int) else str(args[0]))

    with disk(fill):
        yield


class Command:
    """A command of ours in a process of its own, without the seconds that importing torch takes.

    Args:
        verb: ``train``, ``search``, ...
        words: of the command line.
        folder: where it is started.
        injected: a context in which it is carried out.
    """

    def __init__(self, verb: str, *words: str, folder: Path, injected=nullcontext) -> None:
        self._out = [folder.parent / f"{folder.name}-{verb}-{next(_numbers)}.{name}" for name in ("out", "err")]
        self.process = FORK.Process(target=self._work, args=(verb, words, folder, injected))
        self.process.start()

    def _work(self, verb: str, words: tuple[str, ...], folder: Path, injected) -> None:
        os.chdir(folder)
        for number, path in enumerate(self._out, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        sys.argv = [f"nas-{verb}", *words]
        warnings.resetwarnings()
        warnings.simplefilter("ignore", ResourceWarning)
        torch.set_num_threads(1)
        with injected():
            importlib.import_module(f"nas.cli.{verb}").main()

    def out(self) -> str:
        """What it has printed until now."""
        return self._out[0].read_text() if self._out[0].exists() else ""

    def end(self) -> tuple[int, str, str]:
        """Wait for it: status, output, errors."""
        self.process.join(120)
        return self.process.exitcode, *(path.read_text() for path in self._out)
