"""Decoded images in one safetensors file, found again for as long as their source is unchanged."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nas.data.images import ImageSet
from nas.errors import NasWarning
from nas.files import lock, unfinished
from nas.settings import FolderSettings

FORMAT = 2  # raise it when the same source would decode to other images or be stored in another way
TENSORS = ("images", "labels", "test_images", "test_labels")


def cache_file(settings: FolderSettings, root: Path, stamps: Iterable[tuple[str, os.stat_result]]) -> Path:
    """The cache file for a source, named by its path, the size and time of every file, and the image size."""
    lines = [f"{FORMAT} {root}", *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stamps)]
    digest = blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=10)
    return Path(settings.cache).expanduser() / f"{root.stem}-{settings.image_size}-{digest.hexdigest()}.safetensors"


def read_cache(path: Path, size: int) -> tuple[ImageSet, ImageSet] | None:
    """The ``(pool, test)`` that :func:`write_cache` wrote, or None if there is none that can be read.

    Args:
        path: of the file. Where it is damaged, the images are decoded again and it is replaced.
        size: of the images in it.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            classes = json.loads(metadata.get("classes", "null"))
            tensors = [file.get_tensor(name) for name in TENSORS]
    except (OSError, ValueError, RecursionError, SafetensorError):
        return None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return None
    if not _are_sets(tensors, len(classes), size) or metadata.get("crc32") != checksum(tensors):
        return None
    names = tuple(classes)
    return ImageSet(tensors[0], tensors[1], names), ImageSet(tensors[2], tensors[3], names)


def _are_sets(tensors: list[Tensor], classes: int, size: int) -> bool:
    """Whether ``tensors`` are images and labels of two splits, with the types, shapes and classes they must have."""
    for images, labels in (tensors[:2], tensors[2:]):
        if images.dtype != torch.uint8 or labels.dtype != torch.int64 or labels.ndim != 1 or not len(labels):
            return False
        if images.shape != (len(labels), 3, size, size) or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            return False
    return True


def checksum(tensors: Iterable[Tensor]) -> str:
    """CRC-32 of all bytes: safetensors has no checksum, and a flipped bit in an image would go unnoticed."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.contiguous().numpy().data, found)
    return f"{found:08x}"


def write_cache(path: Path, pool: ImageSet, test: ImageSet) -> None:
    """Write both sets to ``path`` at once or not at all; a folder that cannot be written is a warning."""
    tensors = dict(zip(TENSORS, (pool.images, pool.labels, test.images, test.labels), strict=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(path.name + ".lock")) as free:
            if free:  # else another process is writing the same
                metadata = {"classes": json.dumps(pool.classes), "crc32": checksum(tensors.values())}
                with unfinished(path) as beside:
                    save_file(tensors, beside, metadata)
    except (OSError, SafetensorError) as error:
        message = f"data.cache={path.parent}: images are decoded again every time ({error}); name another folder"
        warnings.warn(message, NasWarning, stacklevel=2)
