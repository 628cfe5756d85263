"""A zip of images that may come from anybody: checked as a whole before the first entry is decoded.

Nothing is ever unpacked to the disk, so that a path that leads out of a folder can do no harm here. It is refused all
the same: nobody packs images like that, and other programs do unpack what they are given.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from nas.errors import DataError

LARGEST = 64 << 20
"""Bytes of one image's file, in an archive or a folder."""
MOST = 10_000_000
"""Entries of an archive, files of a folder."""
SMALL, RATIO = 1 << 20, 300
"""Bytes of an entry that may be compressed in any way; how many times smaller than itself a larger one may be."""
_HEADER = 30  # bytes in front of an entry's name


class Archive:
    """The entries of a zip, by name.

    Args:
        path: of the file.
        root: as the user wrote it.
        suffixes: of the names of images, in small letters; no other entry is ever read.

    Raises:
        DataError: an entry has a path that leads out of the folder, is a link, occurs twice, overlaps another one, or
            claims to be larger than any image.
        zipfile.BadZipFile: it is no zip. Python's reader raises other errors too.
    """

    def __init__(self, path: Path, root: str, suffixes: Iterable[str]) -> None:
        self._zip = zipfile.ZipFile(path)
        try:
            _check(root, self._zip.infolist(), set(suffixes))
        except DataError:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        """Of all entries, as the zip has them."""
        return [entry.filename for entry in self._zip.infolist() if not entry.is_dir()]

    def read(self, name: str) -> bytes:
        """The bytes of an entry, as many as it claims to have at most, and only if they agree with its checksum."""
        with self._zip.open(entry := self._zip.getinfo(name)) as file:
            return file.read(entry.file_size + 1)  # read() would decompress everything before it cuts it off

    def close(self) -> None:
        """Close the file."""
        self._zip.close()


def _check(root: str, entries: list[zipfile.ZipInfo], suffixes: set[str]) -> None:
    def refused(name: str, why: str) -> DataError:
        return DataError("data.root", f"{root}: {name}", why, "make the zip again from the images themselves")

    if len(entries) > MOST:
        raise refused(f"{len(entries):,} entries", f"there are more than {MOST:,}")
    places, end = set[PurePosixPath](), -1
    for entry in entries:
        place = PurePosixPath(entry.filename)
        if why := _wrong_path(entry, place) or (place.suffix.lower() in suffixes and _wrong_size(entry)):
            raise refused(entry.filename, why)
        if place in places and not entry.is_dir():
            raise refused(entry.filename, "occurs twice, and nothing says which one is meant")
        places.add(place)
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise refused(entry.filename, "overlaps another entry, so that few bytes pass for many")
        end = entry.header_offset + _HEADER + entry.compress_size


def _wrong_path(entry: zipfile.ZipInfo, place: PurePosixPath) -> str:
    if re.search(r"[\\\0]|^[A-Za-z]:", entry.orig_filename) or place.is_absolute() or ".." in place.parts:
        return "leads out of the folder; paths of a zip are written train/CLASS/NAME"
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    return ""


def _wrong_size(entry: zipfile.ZipInfo) -> str:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in another way than by deflate"
    if entry.file_size > LARGEST:
        return f"claims to have {entry.file_size:,} bytes, and an image has at most {LARGEST:,}"
    if entry.file_size > max(SMALL, RATIO * entry.compress_size):
        return f"claims that {entry.compress_size:,} bytes become {entry.file_size:,}, as those of no image do"
    return ""
