"""Class folders of pictures under ``train/`` and ``test/``, or a zip of them: decoded once, then cached."""

from __future__ import annotations

import os
import re
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import closing
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from nas.data.archive import LARGEST, MOST, Archive
from nas.data.cache import cache_file, read_cache, write_cache
from nas.data.images import ImageSet
from nas.errors import DataError
from nas.settings import FolderSettings

PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # a file that is named .png may be anything
PIXELS = 1 << 26
"""Of a picture, before it is scaled."""
LAYOUT = "put pictures under train/CLASS/ and test/CLASS/"
# What zipfile and Pillow raise on damaged input, each in its own place.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

Entries = dict[str, list[tuple[str, str]]]  # split -> (class, name of the file) of each picture


def load_folder(settings: FolderSettings, progress: bool = False) -> tuple[ImageSet, ImageSet]:
    """The pictures under ``settings.root`` as ``(pool, test)``, uint8 ``(N, 3, image_size, image_size)``.

    Classes are the sorted names of the folders under ``train/``; the tree may lie in one common top folder. Files
    are told to be pictures by their names; others, and hidden ones, are passed over. A picture of another size is
    scaled and cut to the square in its middle. A zip is read in place. The decoded pictures are kept in one file
    under ``settings.cache``, which is used for as long as the source does not change.

    Raises:
        DataError: ``root`` is absent or no readable folder or zip, a picture is damaged or larger than pictures are,
            ``train/`` or ``test/`` is missing, there is only one class, or a class is in ``test/`` alone.
    """
    root = Path(os.path.abspath(Path(settings.root).expanduser()))
    try:
        kind = stat.S_IFMT(root.stat().st_mode)
    except (OSError, ValueError):
        raise DataError("data.root", settings.root, "does not exist", f"name a folder or a zip; {LAYOUT}") from None
    if kind not in (stat.S_IFDIR, stat.S_IFREG):
        raise DataError("data.root", settings.root, "is neither a folder nor a file", f"name one; {LAYOUT}")
    try:
        names = _walk(settings, root) if kind == stat.S_IFDIR else []
        stamps = [(name, (root / name).stat()) for name in names or ["."]]
    except OSError as error:  # a link to nothing
        raise DataError("data.root", settings.root, f"cannot be read ({error})", "mend or remove this file") from error
    cached = cache_file(settings, root, stamps)
    if (sets := read_cache(cached, settings.image_size)) is not None:
        return sets
    if kind == stat.S_IFDIR:
        _check_files(settings, stamps if names else [])
        sets = _decode(settings, names, lambda name: (root / name).read_bytes(), progress)
    else:
        sets = _decode_zip(settings, root, progress)
    write_cache(cached, *sets)
    return sets


def list_images(settings: FolderSettings) -> Entries | None:
    """The images under ``settings.root`` by the names of its files; None where :func:`load_folder` refuses it."""
    root = Path(os.path.abspath(Path(settings.root).expanduser()))
    try:
        if root.is_dir():
            return _entries(_walk(settings, root))
        if root.is_file():  # to open a pipe would wait for a writer
            with closing(Archive(root, settings.root, PICTURES)) as archive:
                return _entries(archive.names)
    except (DataError, *UNREADABLE):
        pass
    return None


def _walk(settings: FolderSettings, root: Path) -> list[str]:
    """All files under ``root``, as sorted relative names with forward slashes; links are followed, but in no circle."""
    names: list[str] = []
    above = {str(root): {_identity(root)}}  # the folders on the way to a folder, itself included
    for folder, below, files in os.walk(root, followlinks=True):
        way = above.pop(folder)
        for name in below:
            here = _identity(place := os.path.join(folder, name))
            if here in way:
                where = f"{settings.root}: {Path(place).relative_to(root)}"
                raise DataError("data.root", where, "is a link to a folder that it lies in", "remove this link")
            above[place] = way | {here}
        names += [Path(folder, file).relative_to(root).as_posix() for file in files]
        if len(names) > MOST or len(above) > MOST:
            raise DataError("data.root", settings.root, f"has more than {MOST:,} files", "name a folder of pictures")
    return sorted(names)


def _identity(folder: Path | str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _check_files(settings: FolderSettings, stamps: Iterable[tuple[str, os.stat_result]]) -> None:
    """Refuse what could not be read to its end: a pipe, a device, a file that is larger than pictures are."""
    for name, found in stamps:
        if PurePosixPath(name).suffix.lower() in PICTURES:
            where, remedy = f"{settings.root}: {name}", "mend or remove this file"
            if not stat.S_ISREG(found.st_mode):
                raise DataError("data.root", where, "is no file", remedy)
            if found.st_size > LARGEST:
                rule = f"has {found.st_size:,} bytes, and a picture has at most {LARGEST:,}"
                raise DataError("data.root", where, rule, remedy)


def _decode_zip(settings: FolderSettings, root: Path, progress: bool) -> tuple[ImageSet, ImageSet]:
    try:
        archive = Archive(root, settings.root, PICTURES)
    except DataError:
        raise
    except UNREADABLE as error:
        rule = f"is neither a folder nor a zip that can be read ({error})"
        raise DataError("data.root", settings.root, rule, "make the zip again or name a folder") from error
    with closing(archive):
        return _decode(settings, archive.names, archive.read, progress)


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
                said = re.sub(r" <.* object at 0x\w+>", "", str(error))
                raise DataError("data.root", where, f"is no readable picture ({said})", remedy) from error
            images[row] = torch.from_numpy(pixels).permute(2, 0, 1)
        labels = torch.tensor([number[name] for name, _ in pictures], dtype=torch.int64)
        return ImageSet(images, labels, classes)

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
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
    with Image.open(BytesIO(data), formats=FORMATS) as picture:
        if picture.width * picture.height > PIXELS:  # the header says so; nothing has been decoded yet
            raise ValueError(f"it has {picture.width}x{picture.height} pixels, and may have {PIXELS:,} at most")
        if picture.mode.startswith(("I", "F")):  # Pillow would clip them to white
            raise ValueError(f"mode {picture.mode} has more than 8 bits a channel")
        colour = picture.convert("RGB")
    return np.array(colour if colour.size == (size, size) else ImageOps.fit(colour, (size, size)))
