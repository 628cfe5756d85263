"""Files of images become pixels, a block of them at a time, on all cores.

Most of the time of a small image goes to Python, so threads would wait for each other. The processes that decode are
started as commands: a fork would copy torch's threads in whatever state they are, and multiprocessing's other ways run
the user's own script again. They import no torch and know nothing but what comes through their pipes. They end when
these do, however the process at the other end has ended.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from time import perf_counter
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
        number: of the file in its block.
        why: as the reader or decoder said it.
    """

    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, why)
        self.number, self.why = number, re.sub(r" <.* object at 0x\w+>", "", why)


class Block(NamedTuple):
    """Decoded images: uint8 ``(n, 3, size, size)``, and how many were scaled, the smallest and the largest of these."""

    pixels: bytes
    scaled: list[int]
    """Their number, width and height of the smallest, and of the largest; empty if there are none."""


def decode_block(files: Sequence[bytes], size: int, resize: str) -> Block:
    """Decode some files, as :func:`~nas.data.read.untrusted.decode_image` does each.

    Raises:
        Unreadable: one is no image.
    """
    pixels, others = np.empty((len(files), size, size, 3), np.uint8), list[tuple[int, int]]()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of EXIF data that nobody asks for
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for number, data in enumerate(files):
            try:
                pixels[number], own = decode_image(data, size, resize)
            except UNREADABLE as error:
                raise Unreadable(number, str(error)) from error
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
) -> Generator[Block | Unreadable, None, None]:
    """Decode blocks of images and yield them in order; the first one with a file that is no image is the last.

    Args:
        blocks: names of files.
        read: gives the bytes of one; several threads call it at once. What it raises is passed on if it is a
            DataError, and says that the file is no image if it is one of ``UNREADABLE``.
        size, resize: as in :func:`~nas.data.read.untrusted.decode_image`.
    """
    begun = perf_counter()
    for number, names in enumerate(blocks):
        if perf_counter() - begun > ALONE_S and cores() > 1:
            yield from _decode_in_processes(blocks[number:], read, size, resize)
            return
        yield _attempt(lambda files: decode_block(files, size, resize), names, read)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _attempt(
    work: Callable[[Sequence[bytes]], Block], names: Sequence[str], read: Callable[[str], bytes]
) -> Block | Unreadable:
    files = list[bytes]()
    try:
        for name in names:
            files.append(read(name))
    except DataError:
        raise
    except UNREADABLE as error:
        return Unreadable(len(files), str(error))
    try:
        return work(files)
    except Unreadable as error:
        return error


def _decode_in_processes(
    blocks: Sequence[Sequence[str]], read: Callable[[str], bytes], size: int, resize: str
) -> Generator[Block | Unreadable, None, None]:
    workers, idle, number = list[_Worker](), SimpleQueue[_Worker](), min(cores(), len(blocks), MOST_PROCESSES)
    threads, waiting = ThreadPoolExecutor(2 * number), deque[Future[Block | Unreadable]]()  # half of them read ahead

    def work(files: Sequence[bytes]) -> Block:
        worker = idle.get()
        try:
            return worker(files)
        finally:
            idle.put(worker)

    try:
        for _ in range(number):
            workers.append(_Worker(size, resize))
            idle.put(workers[-1])
        for names in blocks:
            waiting.append(threads.submit(_attempt, work, names, read))
            if len(waiting) > 3 * number:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for worker in workers:
            worker.kill()  # a thread that waits for it goes on
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


class _Worker:
    """A process that decodes. In a session of its own, so that Ctrl-C reaches it through its pipe alone."""

    def __init__(self, size: int, resize: str) -> None:
        begin = f"import sys; sys.path[:] = {[*map(str, sys.path)]}; from nas.data.read.decode import serve; "
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{begin}serve({size}, {resize!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            pipesize=1 << 20,  # of a block; ignored where pipes have one size
            env=os.environ | _SINGLE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout

    def __call__(self, files: Sequence[bytes]) -> Block:
        try:
            self._to.write(json.dumps([len(data) for data in files]).encode() + b"\n")
            self._to.writelines(files)
            self._to.flush()
            answer = json.loads(self._from.readline())
            pixels = self._from.read(answer["bytes"])
            if len(pixels) < answer["bytes"]:
                raise EOFError
        except (OSError, ValueError, EOFError):
            status = self._process.wait()
            why = f"the process that decodes it and the {len(files) - 1} behind it ended with status {status}"
            raise Unreadable(0, why) from None
        if answer["bad"] is not None:
            raise Unreadable(*answer["bad"])
        return Block(pixels, answer["scaled"])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._from.close()
        with suppress(BrokenPipeError):  # what was not sent is not wanted any more
            self._to.close()


def serve(size: int, resize: str) -> None:
    """Decode blocks from standard input to standard output until it ends: what a process that decodes does."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while line := source.readline():
        files = [source.read(length) for length in json.loads(line)]
        answer: dict[str, object] = {"bytes": 0, "scaled": [], "bad": None}
        pixels = b""
        try:
            pixels, scaled = decode_block(files, size, resize)
            answer |= {"bytes": len(pixels), "scaled": scaled}
        except Unreadable as error:
            answer["bad"] = [error.number, error.why]
        try:
            sink.write(json.dumps(answer).encode() + b"\n")
            sink.write(pixels)
            sink.flush()
        except BrokenPipeError:  # whoever asked is gone
            os._exit(0)
