"""Class folders of pictures under ``train/`` and ``test/``, or a zip of them: decoded once, then cached."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from nas.data.cache import cache_file, read_cache, write_cache
from nas.data.images import ImageSet
from nas.errors import DataError
from nas.settings import FolderSettings

PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
LAYOUT = "put pictures under train/CLASS/ and test/CLASS/"
# What zipfile and Pillow raise on damaged input; RuntimeError is zipfile's word for an encrypted entry and, as
# NotImplementedError, for a compression that Python does not know.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)

Entries = dict[str, list[tuple[str, str]]]  # split -> (class, name of the file) of each picture


def load_folder(settings: FolderSettings, progress: bool = False) -> tuple[ImageSet, ImageSet]:
    """The pictures under ``settings.root`` as ``(pool, test)``, uint8 ``(N, 3, image_size, image_size)``.

    Classes are the sorted names of the folders under ``train/``; the tree may lie in one common top folder. Files
    are told to be pictures by their names; others, and hidden ones, are passed over. A picture of another size is
    scaled and cut to the square in its middle. A zip is read in place. The decoded pictures are kept in one file
    under ``settings.cache``, which is used for as long as the source does not change.

    Raises:
        DataError: ``root`` is absent or no readable folder or zip, a picture is damaged, ``train/`` or ``test/`` is
            missing, there is only one class, or a class is in ``test/`` alone.
    """
    root = Path(os.path.abspath(Path(settings.root).expanduser()))
    if not os.path.exists(root):
        raise DataError("data.root", settings.root, "does not exist", f"name a folder or a zip; {LAYOUT}")
    names = _walk(root) if root.is_dir() else []
    try:
        stamps = [(name, (root / name).stat()) for name in names or ["."]]
    except OSError as error:  # a link to nothing
        raise DataError("data.root", settings.root, f"cannot be read ({error})", "mend or remove this file") from error
    cached = cache_file(settings, root, stamps)
    if (sets := read_cache(cached)) is not None:
        return sets
    if root.is_dir():
        sets = _decode(settings, names, lambda name: (root / name).read_bytes(), progress)
    else:
        try:
            archive = zipfile.ZipFile(root)
        except UNREADABLE as error:
            rule = f"is neither a folder nor a zip that can be read ({error})"
            raise DataError("data.root", settings.root, rule, "make the zip again or name a folder") from error
        with archive:
            sets = _decode(settings, archive.namelist(), archive.read, progress)
    write_cache(cached, *sets)
    return sets


def _walk(root: Path) -> list[str]:
    """All files under ``root``, as sorted relative names with forward slashes."""
    paths = (Path(folder, file) for folder, _, files in os.walk(root, followlinks=True) for file in files)
    return sorted(path.relative_to(root).as_posix() for path in paths)


def _decode(
    settings: FolderSettings, names: Iterable[str], read: Callable[[str], bytes], progress: bool
) -> tuple[ImageSet, ImageSet]:
    entries = _entries(names)
    classes = _classes(settings, entries)
    number = {name: label for label, name in enumerate(classes)}
    console = Console(stderr=True)

    def decode(split: str) -> ImageSet:
        size, pictures = settings.image_size, entries[split]
        images = torch.empty(len(pictures), 3, size, size, dtype=torch.uint8)
        rows = track(range(len(pictures)), f"decoding {split}", console=console, transient=True, disable=not progress)
        for row in rows:
            name = pictures[row][1]
            try:
                pixels = _pixels(read(name), size)
            except UNREADABLE as error:
                where, remedy = f"{settings.root}: {name}", "mend or remove this file"
                raise DataError("data.root", where, f"is no readable picture ({error})", remedy) from error
            images[row] = torch.from_numpy(pixels).permute(2, 0, 1)
        labels = torch.tensor([number[name] for name, _ in pictures], dtype=torch.int64)
        return ImageSet(images, labels, classes)

    return decode("train"), decode("test")


def _entries(names: Iterable[str]) -> Entries:
    """The pictures of each split, sorted by class and name, so that the source's own order does not matter."""
    paths = {name: PurePosixPath(name).parts for name in names if PurePosixPath(name).suffix.lower() in PICTURES}
    # Finder and others leave hidden files and folders that are named like pictures.
    paths = {name: parts for name, parts in paths.items() if not any(map(_hidden, parts))}
    tops = {parts[0] for parts in paths.values()}
    depth = 1 if len(tops) == 1 and tops.isdisjoint(("train", "test")) else 0
    entries: Entries = {"train": [], "test": []}
    for name, parts in paths.items():
        split, *below = parts[depth:]
        if split in entries and len(below) >= 2:
            entries[split].append((below[0], name))
    return {split: sorted(pictures) for split, pictures in entries.items()}


def _hidden(part: str) -> bool:
    return part.startswith((".", "__MACOSX"))


def _classes(settings: FolderSettings, entries: Entries) -> tuple[str, ...]:
    for split, pictures in entries.items():
        if not pictures:
            rule = f"has no {split}/ folder with class folders of pictures"
            raise DataError("data.root", settings.root, rule, LAYOUT)
    classes, tested = ({name for name, _ in entries[split]} for split in ("train", "test"))
    if len(classes) == 1:
        rule = f"is a data set with one class, {min(classes)!r}"
        raise DataError("data.root", settings.root, rule, "have at least two class folders under train/")
    if unknown := tested - classes:
        rule = f"has class {min(unknown)!r} under test/ and not under train/"
        raise DataError("data.root", settings.root, rule, "name the class folders alike in both")
    return tuple(sorted(classes))


def _pixels(data: bytes, size: int) -> np.ndarray:
    """Decode a picture to uint8 ``(size, size, 3)``; raises one of :data:`UNREADABLE`."""
    with Image.open(BytesIO(data)) as picture:
        if picture.mode.startswith(("I", "F")):  # Pillow would clip them to white
            raise ValueError(f"mode {picture.mode} has more than 8 bits a channel")
        colour = picture.convert("RGB")
    return np.array(colour if colour.size == (size, size) else ImageOps.fit(colour, (size, size)))
