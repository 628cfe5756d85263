"""SIGINT and SIGTERM: collected while work goes on, so that it can be saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)
ALARM = getattr(signal, "SIGALRM", None)  # Windows has none


def on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    """Have SIGINT and SIGTERM call ``handler(number, frame)``."""
    for number in STOPS:
        signal.signal(number, handler)


class Interrupted(Exception):
    """Work was asked to stop and has saved.

    Args:
        signal_number: the signal that asked.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


def interrupt(number: int, _: FrameType | None) -> None:
    """A handler for work that saves each of its results at once.

    Raises:
        Interrupted: always.
    """
    raise Interrupted(number)


class Abandoned(Interrupted):
    """A run was asked to stop and did not reach the end of a step in time; its last checkpoint is what remains."""


_open = list[list[int]]()
"""What the contexts collect that work is in."""


@contextmanager
def stop_signals(grace_s: float = 0.0) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them.

    Work inside of other work shares the list of the outer one, so that both learn of a signal, whenever it came. In
    another thread than the main one, none is collected.

    Args:
        grace_s: for a process among several: seconds from the first signal to :class:`Abandoned`. A terminal's Ctrl-C
            reaches such a process twice, since torchrun sends one too, so the second is collected as well; torchrun
            kills what has not ended after 30 s. With 0, a second signal takes effect at once.

    Raises:
        Abandoned: ``grace_s`` has passed (on a system that has SIGALRM).
    """
    if _open and not grace_s:
        yield _open[-1]
        return
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield []
        return
    received: list[int] = []

    def abandon(*_: object) -> None:
        raise Abandoned(received[0])

    def collect(number: int, frame: FrameType | None) -> None:
        if grace_s and not received and ALARM is not None:
            signal.signal(ALARM, abandon)
            signal.setitimer(signal.ITIMER_REAL, grace_s)
        received.append(number)
        if not grace_s:
            signal.signal(number, before[number])

    before: dict[int, Any] = {int(number): signal.signal(number, collect) for number in STOPS}
    failed = True
    _open.append(received)
    try:
        yield received
        failed = False
    finally:
        _open.pop()
        if grace_s and ALARM is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        if grace_s and failed:
            ignore_stops()


def ignore_stops() -> None:
    """Let this process, one of several, end by itself: it still has to say why, and to close its files.

    torchrun sends SIGTERM to the others as soon as one process has ended, which may be before they have printed why
    they end too.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
