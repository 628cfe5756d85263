"""Class folders of images under ``train/`` and ``test/``, or a zip of them: decoded once, then cached."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PurePosixPath

from nas.console import new_console
from nas.data.images import ImageSet
from nas.data.read.archive import Archive
from nas.data.read.cache import Cache, Decoded, cache_file
from nas.data.read.decode import Block, Unreadable, decode
from nas.data.read.untrusted import SUFFIXES, UNREADABLE, check_files, list_files
from nas.errors import DataError
from nas.settings import FolderSettings

USUAL = 224  # side in pixels of what most published networks see
LAYOUT = "put images under train/CLASS/ and test/CLASS/"
Entries = dict[str, list[tuple[str, str]]]  # split -> (class, name of the file) of each image


def load_folder(settings: FolderSettings, progress: bool = False) -> tuple[ImageSet, ImageSet]:
    """The images under ``settings.root`` as ``(pool, test)``, uint8 ``(N, 3, kept_size, kept_size)``.

    Classes are the sorted names of the folders under ``train/``; the tree may lie in one common top folder. Files
    count as images by their names; others, and hidden ones, are ignored. An image of another size becomes
    a square as ``settings.resize`` says; with ``progress``, a line says so. A zip is read in place. The decoded images
    are mapped from one file under ``settings.cache``, which is used for as long as the source does not change.

    Raises:
        DataError: ``root`` is absent or no readable folder or zip, an image is damaged, larger than images are or
            changes meanwhile, ``train/`` or ``test/`` is missing, there is only one class, a class is in ``test/``
            alone, or ``settings.cache`` has no room.
    """
    root = Path(os.path.abspath(Path(settings.root).expanduser()))
    try:
        kind = stat.S_IFMT(root.stat().st_mode)
    except (OSError, ValueError):
        raise DataError("data.root", settings.root, "does not exist", f"name a folder or a zip; {LAYOUT}") from None
    if kind not in (stat.S_IFDIR, stat.S_IFREG):
        raise DataError("data.root", settings.root, "is neither a folder nor a file", f"name one; {LAYOUT}")
    try:
        names = list_files(settings.root, root) if kind == stat.S_IFDIR else []
        stamps = [(name, (root / name).stat()) for name in names or ["."]]
    except OSError as error:  # a link to nothing
        raise DataError("data.root", settings.root, f"cannot be read ({error})", "mend or remove this file") from error
    cache = Cache(cache_file(settings, root, stamps), settings.kept_size)
    found = cache.read()
    if found is None:
        if kind == stat.S_IFDIR:
            check_files(settings.root, stamps if names else [])
            found = _decode_folder(settings, cache, root, dict(stamps), progress)
        else:
            found = _decode_zip(settings, cache, root, stamps[0][1], progress)
    pool, test, scaled = found
    if scaled and progress:
        new_console(stderr=True).print(_scaling(settings, len(pool) + len(test), *scaled))
    side = settings.image_size
    return (pool, test) if side == settings.kept_size else (replace(pool, side=side), replace(test, side=side))


def _scaling(settings: FolderSettings, images: int, count: int, *sizes: int) -> str:
    """What a person should know of images that had another size: ``sizes`` are the smallest and the largest."""
    (width, height), (widest, highest) = sizes[:2], sizes[2:]
    own = f"{width}x{height}" + f" to {widest}x{highest}" * (sizes[:2] != sizes[2:])
    side = settings.kept_size
    nearer = min(USUAL, round(min(widest, highest) * settings.image_size / side))  # photos would say thousands
    remedy = f"; data.image_size={nearer} is nearer to that" if nearer != settings.image_size else ""
    how = f"scaled to {side}x{side} by data.resize={settings.resize}"
    return f"data.root={settings.root}: {count:,} of {images:,} images, {own}, are {how}{remedy}"


def list_images(settings: FolderSettings) -> Entries | None:
    """The images under ``settings.root`` by the names of its files; None where :func:`load_folder` refuses it."""
    root = Path(os.path.abspath(Path(settings.root).expanduser()))
    try:
        if root.is_dir():
            return _entries(list_files(settings.root, root))
        if root.is_file():  # to open a pipe would wait for a writer
            with closing(Archive(root, settings.root, SUFFIXES)) as archive:
                return _entries(archive.names)
    except (DataError, *UNREADABLE):
        pass
    return None


def _decode_folder(
    settings: FolderSettings, cache: Cache, root: Path, stamps: dict[str, os.stat_result], progress: bool
) -> Decoded:
    def read(name: str) -> bytes:
        with (root / name).open("rb") as file:
            data = file.read(stamps[name].st_size + 1)
            _refuse_changed(f"{settings.root}: {name}", os.fstat(file.fileno()), stamps[name])
        return data

    return _decode(settings, cache, stamps, read, progress)


def _decode_zip(settings: FolderSettings, cache: Cache, root: Path, stamp: os.stat_result, progress: bool) -> Decoded:
    def read(name: str) -> bytes:
        data = archive.read(name)
        _refuse_changed(settings.root, os.stat(root), stamp)
        return data

    try:
        archive = Archive(root, settings.root, SUFFIXES)
    except DataError:
        raise
    except UNREADABLE as error:
        rule = f"is neither a folder nor a zip that can be read ({error})"
        raise DataError("data.root", settings.root, rule, "make the zip again or name a folder") from error
    with closing(archive):
        return _decode(settings, cache, archive.names, read, progress)


def _refuse_changed(shown: str, now: os.stat_result, before: os.stat_result) -> None:
    if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        rule = "changed while images were decoded"
        raise DataError("data.root", shown, rule, "begin again when nobody writes to it any more")


def _decode(
    settings: FolderSettings, cache: Cache, names: Iterable[str], read: Callable[[str], bytes], progress: bool
) -> Decoded:
    names = list(names)
    entries = _entries(names)
    classes = _classes(settings, entries)
    if progress and (left := [name for name in names if _left_out(name)]):
        rule = f"{len(left):,} files, such as {left[0]}, are left out: {', '.join(sorted(SUFFIXES))} are read"
        new_console(stderr=True).print(f"data.root={settings.root}: {rule}")
    numbers = {split: Counter(name for name, _ in images) for split, images in entries.items()}
    counts = {split: [found[name] for name in classes] for split, found in numbers.items()}

    def blocks_of(blocks: Sequence[Sequence[str]]) -> Generator[Block, None, None]:
        try:
            yield from decode(blocks, read, settings.kept_size, settings.resize)
        except Unreadable as error:
            rule, remedy = f"is no readable image ({error.why})", "mend or remove this file"
            raise DataError("data.root", f"{settings.root}: {error.name}", rule, remedy) from error

    return cache.write(classes, counts, [name for split in counts for _, name in entries[split]], blocks_of, progress)


def _entries(names: Iterable[str]) -> Entries:
    """The images of each split, sorted by class and name, so that the source's own order does not matter."""
    paths = {name: PurePosixPath(name).parts for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES}
    # Finder and others leave hidden files and folders that are named like images.
    paths = {name: parts for name, parts in paths.items() if not any(map(_hidden, parts))}
    tops = {parts[0] for parts in paths.values()}
    depth = 1 if len(tops) == 1 and tops.isdisjoint(("train", "test")) else 0
    entries: Entries = {"train": [], "test": []}
    for name, parts in paths.items():
        split, *below = parts[depth:]
        if split in entries and len(below) >= 2:
            entries[split].append((below[0], name))
    return {split: sorted(images) for split, images in entries.items()}


def _left_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() not in SUFFIXES and not any(map(_hidden, path.parts)) and not name.endswith("/")


def _hidden(part: str) -> bool:
    return part.startswith((".", "__MACOSX"))


def _classes(settings: FolderSettings, entries: Entries) -> tuple[str, ...]:
    for split, images in entries.items():
        if not images:
            rule = f"has no {split}/ folder with class folders of images"
            raise DataError("data.root", settings.root, rule, LAYOUT)
    classes, tested = ({name for name, _ in entries[split]} for split in ("train", "test"))
    if len(classes) == 1:
        rule = f"is a data set with one class, {min(classes)!r}"
        raise DataError("data.root", settings.root, rule, "have at least two class folders under train/")
    if unknown := tested - classes:
        rule = f"has class {min(unknown)!r} under test/ and not under train/"
        raise DataError("data.root", settings.root, rule, "name the class folders alike in both")
    return tuple(sorted(classes))
