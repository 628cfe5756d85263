"""Files of images become pixels, a block of them at a time, on all cores.

Most of the time of a small image goes to Python, so threads would wait for each other. Processes decode, those of loky:
a fork would copy torch's threads in whatever state they are, and multiprocessing's other ways run the user's own script
again. They import no torch.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import current_process
from threading import Thread
from time import perf_counter, sleep
from typing import NamedTuple

import numpy as np
from PIL import Image

from nas.data.read.untrusted import UNREADABLE, decode_image
from nas.errors import DataError

ALONE_S = 0.2
"""Seconds after which other processes join in: to start them takes about as long."""
MOST_PROCESSES = 32
"""More of them than one process can feed with small images."""
_SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # numpy would start threads that nobody uses


class Unreadable(Exception):
    """A file that is no image.

    Args:
        name: of the file.
        why: as the reader or decoder said it.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name, self.why = name, re.sub(r" <.* object at 0x\w+>", "", why)


class Block(NamedTuple):
    """Decoded images: uint8 ``(n, 3, size, size)``, and how many were scaled, the smallest and the largest of these."""

    pixels: bytes
    scaled: list[int]
    """Their number, width and height of the smallest, and of the largest; empty if there are none."""


def decode_block(files: Mapping[str, bytes], size: int, resize: str) -> Block:
    """Decode some files, by name, as :func:`~nas.data.read.untrusted.decode_image` does each.

    Raises:
        Unreadable: one is no image.
    """
    pixels, others = np.empty((len(files), size, size, 3), np.uint8), list[tuple[int, int]]()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of EXIF data that nobody asks for
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for number, (name, data) in enumerate(files.items()):
            try:
                pixels[number], own = decode_image(data, size, resize)
            except UNREADABLE as error:
                raise Unreadable(name, str(error)) from error
            if own != (size, size):
                others.append(own)
    return Block(pixels.transpose(0, 3, 1, 2).tobytes(), summary([[1, *own, *own] for own in others]))


def summary(scaled: Sequence[Sequence[int]]) -> list[int]:
    """What several ``Block.scaled`` say together."""
    known = [one for one in scaled if one]
    if not known:
        return []
    smallest = min((one[1:3] for one in known), key=lambda own: own[0] * own[1])
    largest = max((one[3:5] for one in known), key=lambda own: own[0] * own[1])
    return [sum(one[0] for one in known), *smallest, *largest]


def decode(
    blocks: Sequence[Sequence[str]], read: Callable[[str], bytes], size: int, resize: str
) -> Generator[Block, None, None]:
    """Decode blocks of images and yield them in order.

    Args:
        blocks: names of files.
        read: gives the bytes of one; several threads call it at once. A DataError that it raises is passed on.
        size, resize: as in :func:`~nas.data.read.untrusted.decode_image`.

    Raises:
        Unreadable: a file is no image, or ``read`` has raised one of ``UNREADABLE``.
    """
    begun = perf_counter()
    for number, names in enumerate(blocks):
        if perf_counter() - begun > ALONE_S and cores() > 1 and not current_process().daemon:
            yield from _decode_in_processes(blocks[number:], read, size, resize)
            return
        yield decode_block(_read(names, read), size, resize)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(names: Sequence[str], read: Callable[[str], bytes]) -> dict[str, bytes]:
    files = dict[str, bytes]()
    for name in names:
        try:
            files[name] = read(name)
        except DataError:
            raise
        except UNREADABLE as error:
            raise Unreadable(name, str(error)) from error
    return files


def _decode_in_processes(
    blocks: Sequence[Sequence[str]], read: Callable[[str], bytes], size: int, resize: str
) -> Generator[Block, None, None]:
    from joblib.externals.loky import ProcessPoolExecutor  # joblib.Parallel would not wait for who takes its results

    number, waiting = min(cores(), len(blocks), MOST_PROCESSES), deque[Future[Future[Block]]]()
    pool = ProcessPoolExecutor(number, initializer=_begin, initargs=(os.getpid(),), env=_SINGLE)

    def submit(names: Sequence[str]) -> Future[Block]:
        return pool.submit(decode_block, _read(names, read), size, resize)

    def read_ahead() -> Generator[Future[Future[Block]], None, None]:
        for names in blocks:
            waiting.append(readers.submit(submit, names))
            if len(waiting) > 3 * number:
                yield waiting.popleft()
        yield from waiting

    with pool, ThreadPoolExecutor(number) as readers:
        for names, block in zip(blocks, read_ahead(), strict=True):
            try:
                yield block.result().result()
            except BrokenProcessPool as error:
                why = "a process that decodes it, or one of those behind it, was killed"
                raise Unreadable(names[0], why) from error


def _begin(parent: int) -> None:
    """In a process that decodes: Ctrl-C does not reach its session, and it ends with ``parent``, whatever ends that."""

    def watch() -> None:
        while os.getppid() == parent:
            sleep(0.5)
        os._exit(0)

    if hasattr(os, "setsid"):
        os.setsid()
    Thread(target=watch, daemon=True).start()
