"""Decoded images in one file that every process of a machine maps, and what is known of them beside it.

``NAME.u8`` is nothing but pixels: uint8 ``(M, 3, size, size)``, the images of ``train/`` and then those of ``test/``.
``NAME.jsonl`` is a :mod:`journal <nas.journal>`: classes and numbers of images, then a checksum of each block of
pixels, then statistics. While the pixels are being decoded, a block at a time, they have another name, so that a kill
or a full disk leaves what can be gone on with and nothing that passes for the whole.
"""

from __future__ import annotations

import mmap
import os
import shutil
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from nas.console import ProgressBar, new_console
from nas.data.images import ImageSet, statistics
from nas.data.read.decode import Block, summary
from nas.errors import CheckpointError, DataError
from nas.files import UNFINISHED, put, shared_lock, write_all
from nas.journal import Journal
from nas.settings import FolderSettings
from nas.settings.plain import fits

FORMAT = 7  # raise it when the same source would decode to other images or be stored in another way
BLOCK_BYTES = 1 << 20
"""Of pixels that are decoded, written and checked at a time."""
CHECKED = 256
"""Blocks that are compared with their checksums at every start: all of a small file, every so many of a large one."""
EXPECTED_BYTES = 1 << 28
"""Of pixels, from which on the kernel is told which images come next: a sixth of the time of a batch of 32x32."""

Counts = dict[str, list[int]]
"""Images of each class, by split."""
Decoder = Callable[[Sequence[Sequence[str]]], Generator[Block, None, None]]
"""Gives blocks of images for blocks of names, in order."""
Decoded = tuple[ImageSet, ImageSet, list[int]]
"""``(pool, test)``, and :class:`~nas.data.read.decode.Block`'s ``scaled`` for all images."""


def cache_file(settings: FolderSettings, root: Path, stamps: Iterable[tuple[str, os.stat_result]]) -> Path:
    """The file for a source, named by its path, the size and time of every file, and what becomes of an image."""
    lines = [f"{FORMAT} {root}", *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stamps)]
    digest = blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=10)
    name = f"{root.stem}-{settings.resize}-{settings.kept_size}-{digest.hexdigest()}.u8"
    return Path(settings.cache).expanduser() / name


@dataclass
class _Known:
    """What the journal says."""

    classes: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=dict)
    sums: list[int] = field(default_factory=list)
    scaled: list[list[int]] = field(default_factory=list)
    statistics: dict[str, list[list[float]]] = field(default_factory=dict)

    def take(self, entry: dict[str, Any]) -> None:
        match entry:
            case {"classes": classes, "counts": counts} if fits(classes, list[str]) and fits(counts, Counts):
                self.classes, self.counts = classes, counts
            case {"sum": int(number), "scaled": scaled} if fits(scaled, list[int]) and len(scaled) in (0, 5):
                self.sums.append(number)
                self.scaled.append(scaled)
            case {"images": str(digest), "statistics": found} if fits(found, list[list[float]]) and len(found) == 2:
                self.statistics[digest] = found
            case _:
                raise ValueError("it is no entry of a cache")


class Cache:
    """The decoded images of a source.

    Args:
        path: of the pixels, :func:`cache_file`.
        size: side of an image.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size, self._row = path, size, 3 * size * size
        self._rows_of_block = max(1, BLOCK_BYTES // self._row)
        self._unfinished, self._journal = path.with_name(path.name + UNFINISHED), path.with_suffix(".jsonl")

    def read(self) -> Decoded | None:
        """Map what was decoded; None where there is nothing, or something is wrong with it."""
        try:
            known, _ = self._read_journal()
            counts = known.counts["train"], known.counts["test"]
            images = sum(chain(*counts))
            with self._path.open("rb") as file:
                # A mapping that is longer than its file would end the process where it is read.
                if os.fstat(file.fileno()).st_size != images * self._row or not self._agree(file, known, images):
                    return None
                mapping, pixels = _mapped(file, images, self._size)
            labels = [_labels(of_split, known.classes) for of_split in counts]
        except (OSError, CheckpointError, ValueError, KeyError):
            return None
        parts, classes = pixels.split([*map(len, labels)]), tuple(known.classes)
        pool, test = (
            ImageSet(*both, classes, file=self._path, mapping=mapping) for both in zip(parts, labels, strict=True)
        )
        return pool, test, summary(known.scaled)

    def write(
        self,
        classes: Sequence[str],
        counts: Counts,
        names: Sequence[str],
        decode: Decoder,
        progress: bool,
    ) -> Decoded:
        """Decode images into the file, from where an earlier process was stopped, and map them.

        Args:
            classes: their names.
            counts: the images of each class.
            names: of all images, in the order of splits and classes.
            decode: what decodes them.
            progress: show a bar on stderr.

        Raises:
            DataError: the file cannot be written, or ``decode`` has raised it; then nothing is left.
        """
        blocks = [names[i : i + self._rows_of_block] for i in range(0, len(names), self._rows_of_block)]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if progress and self._unfinished.exists():
                said = "was begun before: waits for who writes it, or goes on where that was stopped"
                new_console(stderr=True).print(f"data.cache: {self._unfinished} {said}")
            with shared_lock(self._path.with_suffix(".lock")):
                if (found := self.read()) is not None:
                    return found  # of a process that was faster
                self._write(list(classes), counts, blocks, decode, progress)
        except DataError:  # a source that was mended has another cache
            self._unfinished.unlink(missing_ok=True)
            self._journal.unlink(missing_ok=True)
            raise
        except OSError as error:
            rule = f"cannot keep {len(names) * self._row / 1e6:,.2f} MB of decoded images ({error})"
            remedy = "make room, or name another folder with data.cache=PATH; what is there is gone on with"
            raise DataError("data.cache", self._path.parent, rule, remedy) from error
        found = self.read()
        assert found is not None, self._path
        return found

    def _write(
        self,
        classes: list[str],
        counts: Counts,
        blocks: Sequence[Sequence[str]],
        decode: Decoder,
        progress: bool,
    ) -> None:
        images = sum(map(len, blocks))
        known, journal = self._begun(classes, counts, images)
        done = len(known.sums)
        rows = min(done * self._rows_of_block, images)
        needed, free = (images - rows) * self._row, shutil.disk_usage(self._path.parent).free
        if needed > free:
            raise OSError(f"{needed / 1e6:,.2f} MB are to be written, and {free / 1e6:,.2f} MB are free")
        bar = ProgressBar("decoding", images, rows, progress, new_console(stderr=True))
        with open(self._unfinished, "r+b" if rows else "wb", buffering=0) as file, bar:
            file.truncate(rows * self._row)
            file.seek(0, os.SEEK_END)
            with closing(decode(blocks[done:])) as found:
                for names, (pixels, scaled) in zip(blocks[done:], found, strict=True):
                    write_all(file, pixels)
                    journal.append({"sum": crc32(pixels), "scaled": scaled})
                    bar.update(rows := rows + len(names))
        journal.sync()
        put(self._unfinished, self._path)

    def _begun(self, classes: list[str], counts: Counts, images: int) -> tuple[_Known, Journal]:
        """What an earlier process has decoded, if all of it is there and as it was; else a new beginning."""
        with suppress(OSError, CheckpointError):
            known, journal = self._read_journal()
            with self._unfinished.open("rb") as file:
                if (known.classes, known.counts) == (classes, counts) and self._agree(file, known, images, whole=False):
                    return known, journal
        self._journal.unlink(missing_ok=True)
        known, journal = self._read_journal()
        journal.append({"classes": classes, "counts": counts})
        return known, journal

    def _read_journal(self) -> tuple[_Known, Journal]:
        known = _Known()
        definition = {"format": FORMAT, "size": self._size}
        return known, Journal(self._journal, "cache", definition, known.take, result=self._unfinished)

    def _agree(self, file: Any, known: _Known, images: int, whole: bool = True) -> bool:
        """Whether blocks in the file have their checksums: some of all blocks, or all that there are so far."""
        number, length = len(known.sums), self._rows_of_block * self._row
        if whole and number * self._rows_of_block < images:
            return False
        step = max(1, number // CHECKED) if whole else 1
        for block in range(0, number, step):
            file.seek(block * length)
            if crc32(file.read(min(length, images * self._row - block * length))) != known.sums[block]:
                return False
        return True


def kept_statistics(images: ImageSet) -> tuple[Tensor, Tensor]:
    """:func:`~nas.data.images.statistics`, kept beside the file that the images are mapped from, if there is one."""
    if images.file is None:
        return statistics(images)
    index = torch.arange(len(images)) if images.index is None else images.index
    digest = blake2b(index.numpy().tobytes() + str(images.shape).encode(), digest_size=10).hexdigest()
    with suppress(OSError, CheckpointError):  # of a folder that may only be read: they are computed again
        known, journal = Cache(images.file, images.images.shape[-1])._read_journal()
        found = known.statistics.get(digest)
        if found is None:
            found = [values.tolist() for values in statistics(images)]
            with shared_lock(images.file.with_suffix(".lock")):
                journal.append({"images": digest, "statistics": found})
        mean, std = found
        return torch.tensor(mean), torch.tensor(std)
    return statistics(images)


def _labels(counts: list[int], classes: list[str]) -> Tensor:
    if len(counts) != len(classes) or min(counts) < 0 or not sum(counts):
        raise ValueError("there is a number of images for each class")
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def _mapped(file: Any, images: int, size: int) -> tuple[mmap.mmap | None, Tensor]:
    """The images of a file, which the kernel reads when they are used and drops when it needs the memory.

    The mapping can only be read. One that can be written, as torch makes, counts as memory, so that a file that is
    larger than that could not be mapped.
    """
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        pixels = torch.frombuffer(mapping, dtype=torch.uint8).view(images, 3, size, size)
    if len(mapping) < EXPECTED_BYTES or not hasattr(mapping, "madvise"):
        return None, pixels
    mapping.madvise(mmap.MADV_RANDOM)  # else the kernel reads what lies around an image too, and drops others for it
    return mapping, pixels
