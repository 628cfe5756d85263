"""Decoded images in one sealed file, found again for as long as their source is unchanged."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import torch

from nas.data.images import ImageSet
from nas.errors import NasWarning
from nas.files import lock, write_whole
from nas.sealed import seal, unseal
from nas.settings import FolderSettings
from nas.settings.plain import fits

FORMAT = 5  # raise it when the same source would decode to other images or be stored in another way
TENSORS = ("images", "labels", "test_images", "test_labels")


def cache_file(settings: FolderSettings, root: Path, stamps: Iterable[tuple[str, os.stat_result]]) -> Path:
    """The cache file for a source, named by its path, the size and time of every file, and what becomes of an image."""
    lines = [f"{FORMAT} {root}", *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stamps)]
    digest = blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=10)
    name = f"{root.stem}-{settings.resize}-{settings.kept_size}-{digest.hexdigest()}.safetensors"
    return Path(settings.cache).expanduser() / name


def read_cache(path: Path, size: int) -> tuple[ImageSet, ImageSet, list[int]] | None:
    """The ``(pool, test, scaled)`` that :func:`write_cache` wrote, or None if there is none that can be read.

    Args:
        path: of the file. Where it is damaged, or somebody else's, the images are decoded again and it is replaced.
        size: of the images in it.
    """
    try:
        metadata, tensors = unseal(path)
        classes, scaled = json.loads(metadata["classes"]), json.loads(metadata["scaled"])
        images, labels, test_images, test_labels = (tensors[name] for name in TENSORS)
    except (OSError, ValueError, KeyError, RecursionError):
        return None
    if not fits(classes, list[str]) or not fits(scaled, list[int]) or len(scaled) not in (0, 5):
        return None
    for pixels, numbers in (images, labels), (test_images, test_labels):
        if pixels.dtype != torch.uint8 or numbers.dtype != torch.int64 or numbers.ndim != 1 or not len(numbers):
            return None
        if pixels.shape != (len(numbers), 3, size, size) or not 0 <= numbers.min() <= numbers.max() < len(classes):
            return None
    return ImageSet(images, labels, tuple(classes)), ImageSet(test_images, test_labels, tuple(classes)), scaled


def write_cache(path: Path, pool: ImageSet, test: ImageSet, scaled: list[int]) -> None:
    """Write both sets to ``path`` at once or not at all; a folder that cannot be written is a warning.

    ``scaled`` says of how many images another size was scaled, and the smallest and the largest of these sizes.
    """
    metadata = {"classes": json.dumps(pool.classes), "scaled": json.dumps(scaled)}
    tensors = dict(zip(TENSORS, (pool.images, pool.labels, test.images, test.labels), strict=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(path.name + ".lock")) as free:
            if free:  # else another process is writing the same
                write_whole(path, memoryview(seal(metadata, tensors)))
    except (OSError, ValueError) as error:
        message = f"data.cache={path.parent}: images are decoded again every time ({error}); name another folder"
        warnings.warn(message, NasWarning, stacklevel=2)
