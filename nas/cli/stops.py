"""SIGINT and SIGTERM: who gets them, and which processes to hand them on to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


def on_stop(handler: Callable[[int, FrameType | None], None]) -> None:
    """Have SIGINT and SIGTERM call ``handler(number, frame)``."""
    for number in STOPS:
        signal.signal(number, handler)


def block_ctrl_c() -> None:
    """Let a terminal's Ctrl-C, which goes to all processes there, reach this process alone.

    submitit's own processes would die of it, and take runs along that are about to save. Processes begin with the
    signals blocked that their parent's thread has blocked; here another thread takes it for this process.
    """
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def unblock_ctrl_c() -> None:
    """Undo :func:`block_ctrl_c`."""
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def children() -> set[int]:
    """Processes that this one has started; elsewhere than on Linux those of joblib alone."""
    found = {child.pid for child in multiprocessing.active_children() if child.pid}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = place.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.add(int(place.parent.name))
    return found
