"""Faults that are injected for real: a process that the kernel kills at a chosen write, a disk that is full from there.

Whatever has to survive is written through ``os.write`` and its kin in :mod:`nas.files`; here they are counted, and the
chosen one is cut in the middle.
"""

import errno
import itertools
import os
import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from support.processes import FORK, TIMEOUT_S

NAMES = ("write", "fsync", "replace", "rename", "unlink", "truncate")


@contextmanager
def disk(do: Callable):
    """While this lasts every operation on the disk goes through ``do(number, name, call, arguments)``."""
    before = {name: getattr(os, name) for name in NAMES}
    count = itertools.count()

    def watched(name):
        def call(*args, **more):
            if _is_pipe(args[0]):  # what multiprocessing tells its resource tracker whenever garbage is collected
                return before[name](*args, **more)
            return do(next(count), name, lambda *args: before[name](*args, **more), args)

        return _no_users_file(call)

    do = _no_users_file(do)
    for name in NAMES:
        setattr(os, name, watched(name))
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(os, name, call)


def _no_users_file(function):
    """The function as if it lay in no file: what it raises comes from the system, not from a user's own code."""
    function.__code__ = function.__code__.replace(co_filename="<disk>")
    return function


def _is_pipe(place) -> bool:
    return isinstance(place, int) and not os.readlink(f"/proc/self/fd/{place}").startswith("/")


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
    process.join(TIMEOUT_S)
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
