"""Images and labels in one ``.npz`` or ``.safetensors`` file, which may come from anybody."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nas.data.images import ImageSet
from nas.data.read.archive import RATIO, SMALL
from nas.data.read.arrays import COLOURS, image_set, is_channels_last
from nas.data.read.untrusted import UNREADABLE
from nas.errors import DataError
from nas.files import sha256_of
from nas.settings import ArraysSettings, DataSettings
from nas.settings.plain import fits

CLASSES = "classes"
NAMES = ("images", "labels", "test_images", "test_labels", CLASSES)
SAVE = "numpy.savez('x.npz', images=images, labels=labels)"
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
Data = TypeVar("Data", bound=DataSettings | None)


@dataclass(frozen=True)
class _Arrays:
    """An open file."""

    names: list[str]
    """Of all that is in it."""
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    classes: list[str] | None
    mapped: bool = False
    """Whether images are read from the file when they are used, if their channels come first."""


def load_arrays(settings: ArraysSettings) -> tuple[ImageSet, ImageSet | None]:
    """The images of ``settings.root`` as ``(pool, test)``, uint8 ``(N, 1 or 3, H, W)``; None if it has no test images.

    A ``.npz`` is read into memory; the ``(N, C, H, W)`` of a ``.safetensors`` are mapped. Nothing that the file holds
    is run, and it takes no more memory than the sizes that stand in its header, which its bytes must bear out.

    Raises:
        DataError: it is absent, damaged or another file than ``settings.digest`` says, or an array in it has another
            name, shape or type than it must have.
    """
    if settings.digest and settings.digest != (found := identified(replace(settings, digest="")).digest):
        rule = f"is another file than the one with data.digest={settings.digest}: its own is {found}"
        raise DataError("data.root", settings.root, rule, "bring back that file, or begin another run with this one")
    with _open(settings) as arrays:
        try:
            pool = _part(arrays, "", arrays.classes)
            test = _part(arrays, "test_", pool.classes) if "test_images" in arrays.shapes else None
        except DataError as error:
            where = f"{settings.root}: {error.key}={error.value}"
            raise DataError("data.root", where, error.rule, error.remedy) from None
    if test is not None and test.shape != pool.shape:
        rule = f"has test images of {test.shape}, and others of {pool.shape}"
        raise DataError("data.root", settings.root, rule, "save both with the same size and channels")
    return pool, test


def identified(settings: Data) -> Data:
    """``settings`` with the digest of the file, by which a run that goes on knows it again."""
    if not isinstance(settings, ArraysSettings) or settings.digest:
        return settings
    path = _file(settings)
    stamp = path.stat()
    return replace(settings, digest=_digest(path, stamp.st_size, stamp.st_mtime_ns))


@lru_cache(maxsize=8)
def _digest(path: Path, size: int, time_ns: int) -> str:
    return sha256_of(path)[:20]


def arrays_size(settings: ArraysSettings) -> tuple[int, tuple[int, int, int], int, bool] | None:
    """Images, ``(C, H, W)`` of one, classes, and whether they are mapped; None where loading refuses the file."""
    try:
        with _open(settings) as arrays:
            shape = arrays.shapes["images"]
            last = is_channels_last(shape, "images")
            channels = 1 if len(shape) == 3 else shape[3 if last else 1]
            classes = len(arrays.classes) if arrays.classes else int(arrays.read("labels").max()) + 1
            tested, usual = arrays.shapes.get("test_images", (0,))[0], channels in COLOURS and 1 < classes <= shape[0]
            size = shape[0] + tested, (channels, shape[2], shape[2]), classes, arrays.mapped and not last
            return size if usual else None
    except (DataError, *UNREADABLE):
        return None


def _part(arrays: _Arrays, split: str, classes: Any) -> ImageSet:
    for name in (f"{split}images", f"{split}labels"):
        if name not in arrays.shapes:
            rule = f"must be in the file, which has {', '.join(arrays.names) or 'nothing'}"
            raise DataError(name, "none", rule, f"save it as in {SAVE}")
    found = image_set(arrays.read(f"{split}images"), arrays.read(f"{split}labels"), classes, split)
    if found.shape[0] not in COLOURS:
        raise DataError(f"{split}images", found.shape, "must have 1 or 3 channels", "save those that are to be seen")
    if len(found.classes) < 2:
        raise DataError("labels", "0", "there is only one class", "save images of at least two")
    return found


def _file(settings: ArraysSettings) -> Path:
    path = Path(os.path.abspath(Path(settings.root).expanduser()))
    try:
        regular = path.is_file()  # to open a pipe would wait for a writer
    except (OSError, ValueError):
        regular = False
    if not regular or path.suffix not in (".npz", ".safetensors"):
        rule = "must end in .npz or .safetensors" if regular else "is no file"
        raise DataError("data.root", settings.root, rule, f"make one by {SAVE}")
    return path


@contextmanager
def _open(settings: ArraysSettings) -> Iterator[_Arrays]:
    path = _file(settings)
    try:
        with (_npz if path.suffix == ".npz" else _safetensors)(path) as arrays:
            yield arrays
    except DataError:
        raise
    except (SafetensorError, *UNREADABLE) as error:
        rule = f"cannot be read ({error or type(error).__name__})"
        raise DataError("data.root", settings.root, rule, f"save it again, as in {SAVE}") from error


@contextmanager
def _npz(path: Path) -> Iterator[_Arrays]:
    with zipfile.ZipFile(path) as file:
        entries = {name: entry for entry in file.infolist() if (name := entry.filename.removesuffix(".npy")) in NAMES}
        shapes = {}
        for name, entry in entries.items():
            with file.open(entry) as opened:
                shapes[name] = _checked_shape(name, opened, entry)

        def read(name: str) -> Any:
            with file.open(entries[name]) as opened:
                array = np.lib.format.read_array(opened, allow_pickle=False)
            return array.tolist() if name == CLASSES else torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))

        names = [name.removesuffix(".npy") for name in file.namelist()]
        yield _Arrays(names, shapes, read, _names(read(CLASSES)) if CLASSES in shapes else None)


def _checked_shape(name: str, file: IO[bytes], entry: zipfile.ZipInfo) -> tuple[int, ...]:
    """The shape that an array's header gives, if its type is harmless and the entry has that many bytes."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"{name} is in version {version} of the format")
    shape, _, dtype = HEADERS[version](file)
    kinds = "U" if name == CLASSES else "buif"
    if dtype.kind not in kinds:
        what = "Python objects, which could run code" if dtype.hasobject else dtype
        raise ValueError(f"{name} has the type {what}; it must be {'texts' if kinds == 'U' else 'numbers'}")
    if min(shape, default=0) < 0 or file.tell() + dtype.itemsize * prod(shape) != entry.file_size:
        raise ValueError(f"{name} claims to be {dtype} {shape}, and has {entry.file_size:,} bytes")
    if entry.file_size > max(SMALL, RATIO * entry.compress_size):
        raise ValueError(f"{name} claims that {entry.compress_size:,} bytes become {entry.file_size:,}")
    return tuple(shape)


@contextmanager
def _safetensors(path: Path) -> Iterator[_Arrays]:
    with safe_open(path, "pt") as file:
        names = [*file.keys()]
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        text = (file.metadata() or {}).get(CLASSES)
        mapped = "images" in names and file.get_slice("images").get_dtype() == "U8"
        yield _Arrays(names, shapes, file.get_tensor, None if text is None else _names(json.loads(text)), mapped)


def _names(found: Any) -> list[str]:
    if not fits(found, list[str]) or len({*found}) != len(found):
        raise ValueError("classes must be a list of different texts")
    names: list[str] = found
    return names
