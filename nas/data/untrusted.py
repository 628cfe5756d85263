"""What reads folders and images that may come from anybody, and refuses what no image is."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from nas.data.archive import LARGEST, MOST
from nas.errors import DataError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # a file that is named .png may be anything
PIXELS = 1 << 26
"""Of an image, before it is scaled."""
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


def list_files(shown: str, root: Path) -> list[str]:
    """All files under ``root``, as sorted relative names with forward slashes.

    Args:
        shown: the folder as the user wrote it, for messages.
        root: the folder; links in it are followed.

    Raises:
        DataError: there is a link to a folder that it lies in, or there are too many files.
        OSError: a folder cannot be read.
    """
    names: list[str] = []
    for number, (folder, below, files) in enumerate(os.walk(root, followlinks=True)):
        way = (Path(folder), *Path(folder).parents)
        for link in (path for name in below if (path := Path(folder, name)).is_symlink()):
            if any(link.samefile(above) for above in way):
                where = f"{shown}: {link.relative_to(root)}"
                raise DataError("data.root", where, "is a link to a folder that it lies in", "remove this link")
        names += [Path(folder, file).relative_to(root).as_posix() for file in files]
        if len(names) > MOST or number > MOST:
            raise DataError("data.root", shown, f"has more than {MOST:,} files", "name a folder of images")
    return sorted(names)


def check_files(shown: str, stamps: Iterable[tuple[str, os.stat_result]]) -> None:
    """Refuse what could not be read to its end: a pipe, a device, a file that is larger than images are."""
    for name, found in stamps:
        if PurePosixPath(name).suffix.lower() in SUFFIXES:
            where, remedy = f"{shown}: {name}", "mend or remove this file"
            if not stat.S_ISREG(found.st_mode):
                raise DataError("data.root", where, "is no file", remedy)
            if found.st_size > LARGEST:
                rule = f"has {found.st_size:,} bytes, and an image has at most {LARGEST:,}"
                raise DataError("data.root", where, rule, remedy)


def decode_image(data: bytes, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image to uint8 ``(size, size, 3)``, and its own width and height.

    Raises one of :data:`UNREADABLE`.
    """
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > PIXELS:  # the header says so; nothing has been decoded yet
            raise ValueError(f"it has {image.width}x{image.height} pixels, and may have {PIXELS:,} at most")
        if image.mode.startswith(("I", "F")):  # Pillow would clip them to white
            raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
        colour = image.convert("RGB")
    return np.array(colour if colour.size == (size, size) else ImageOps.fit(colour, (size, size))), colour.size
