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
from PIL import ExifTags, Image, ImageOps
from PIL.Image import Transpose

from nas.data.read.archive import LARGEST, MOST
from nas.errors import DataError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # a file that is named .png may be anything
PIXELS = 1 << 26
"""Of an image, before it is scaled."""
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""What makes an image upright, by the orientation in its EXIF data; 1 is upright."""
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


def decode_image(data: bytes, size: int, resize: str) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image, upright, to uint8 ``(size, size, 3)``, and its width and height in the file.

    What is transparent is put on white, as viewers show it; to drop the alpha channel would uncover what lies beneath.
    A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves twice the size: 2 to 8 times as fast, and the difference is
    about that of another filter.

    Args:
        data: the bytes of its file.
        size: side of the square in pixels.
        resize: how an image of another size becomes the square, ``data.resize``. Each way scales with Pillow's bicubic
            filter, which averages over what it makes smaller.

    Raises one of :data:`UNREADABLE`.
    """
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > PIXELS:  # the header says so; nothing has been decoded yet
            raise ValueError(f"it has {image.width}x{image.height} pixels, and may have {PIXELS:,} at most")
        if image.mode.startswith(("I", "F")):  # Pillow would clip them to white
            raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
        own = image.size
        image.draft(None, (2 * size, 2 * size))
        image.load()
        turn = _turn(image) if image.info else None  # most small images tell nothing, and to look takes time
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            colour = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        else:
            colour = image if image.mode == "RGB" else image.convert("RGB")  # which would be a copy
        colour = colour if turn is None else colour.transpose(turn)
    return np.array(colour if colour.size == (size, size) else _square(colour, size, resize)), own


def _turn(image: Image.Image) -> Transpose | None:
    """What makes an image upright, as its EXIF data say; damaged ones say nothing, and viewers show it as it lies.

    ``ImageOps.exif_transpose`` writes the other EXIF data again, and fails where a camera's are odd.
    """
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except UNREADABLE:
        return None


def _square(image: Image.Image, size: int, resize: str) -> Image.Image:
    if resize == "crop":
        return ImageOps.fit(image, (size, size))
    if resize == "squash":
        return image.resize((size, size))
    assert resize == "pad", resize
    longer, square = max(image.size), Image.new("RGB", (size, size))
    width, height = (max(1, round(side * size / longer)) for side in image.size)
    square.paste(image.resize((width, height)), ((size - width) // 2, (size - height) // 2))
    return square
