"""A zip of pictures that may come from anybody: looked at as a whole before the first entry is decoded.

Nothing is ever unpacked to the disk, so that a path that climbs out of a folder can do no harm here. It is refused all
the same: nobody packs pictures like that, and others do unpack what they are given.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from nas.errors import DataError

LARGEST = 64 << 20
"""Bytes of one picture's file, in an archive or a folder."""
MOST = 10_000_000
"""Entries of an archive, files of a folder."""
SMALL, RATIO = 1 << 20, 300
"""Bytes of an entry that may be compressed in any way; how many times smaller than itself a larger one may be."""
_HEADER = 30  # bytes in front of an entry's name
_REMEDY = "make the zip again from the pictures themselves"


class Archive:
    """The entries of a zip, by name.

    Args:
        path: of the file.
        root: as the user wrote it.
        suffixes: of the names of pictures, in small letters; no other entry is ever read.

    Raises:
        DataError: an entry has a path that leads elsewhere, is a link or encrypted, occurs twice, lies over another
            one, or says that it is larger than any picture.
        zipfile.BadZipFile: it is no zip. Python's reader has other errors too.
    """

    def __init__(self, path: Path, root: str, suffixes: Iterable[str]) -> None:
        self._root, self._zip = root, zipfile.ZipFile(path)
        try:
            self._check(set(suffixes))
        except DataError:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        """Of all entries, as the zip has them."""
        return [entry.filename for entry in self._zip.infolist() if not entry.is_dir()]

    def read(self, name: str) -> bytes:
        """The bytes of an entry, as many as it says it has at most, and only if they agree with its checksum."""
        with self._zip.open(entry := self._zip.getinfo(name)) as file:
            return file.read(entry.file_size + 1)  # read() would decompress all there is before it cuts it off

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def _check(self, suffixes: set[str]) -> None:
        entries, places = self._zip.infolist(), set[PurePosixPath]()
        if len(entries) > MOST:
            raise self._refused(f"{len(entries):,} entries", f"there are more than {MOST:,}")
        for entry in entries:
            place = PurePosixPath(entry.filename)
            if why := _wrong_path(entry, place) or _wrong_kind(entry):
                raise self._refused(entry.filename, why)
            if place in places and not entry.is_dir():
                raise self._refused(entry.filename, "occurs twice, and nothing says which one is meant")
            places.add(place)
            if place.suffix.lower() in suffixes and (why := _wrong_size(entry)):
                raise self._refused(entry.filename, why)
        end = -1
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            if entry.header_offset < end:
                raise self._refused(entry.filename, "lies over another entry: few bytes are given out as many")
            end = entry.header_offset + _HEADER + entry.compress_size

    def _refused(self, name: str, why: str) -> DataError:
        return DataError("data.root", f"{self._root}: {name}", why, _REMEDY)


def _wrong_path(entry: zipfile.ZipInfo, place: PurePosixPath) -> str:
    name = entry.orig_filename
    if "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        return "has a path with a drive, a backslash or a zero in it; those of a zip are written train/CLASS/NAME"
    return "has a path that leads out of the folder" if place.is_absolute() or ".." in place.parts else ""


def _wrong_kind(entry: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    return ""


def _wrong_size(entry: zipfile.ZipInfo) -> str:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in another way than by deflate"
    if entry.file_size > LARGEST:
        return f"says that it has {entry.file_size:,} bytes, and a picture has at most {LARGEST:,}"
    if entry.file_size > max(SMALL, RATIO * entry.compress_size):
        return f"says that {entry.compress_size:,} bytes become {entry.file_size:,}, as those of no picture do"
    return ""
