"""Decoded pictures in one safetensors file, found again for as long as their source is unchanged."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nas.data.images import ImageSet
from nas.errors import NasWarning
from nas.settings import FolderSettings

FORMAT = 1  # raise it when the same source would decode to other pictures or be stored in another way


def cache_file(settings: FolderSettings, root: Path, stamps: Iterable[tuple[str, os.stat_result]]) -> Path:
    """The file for a source: its name depends on the path, the size and time of every file, and the image size."""
    lines = [f"{FORMAT} {root}", *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stamps)]
    digest = blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=10)
    return Path(settings.cache).expanduser() / f"{root.stem}-{settings.image_size}-{digest.hexdigest()}.safetensors"


def read_cache(path: Path) -> tuple[ImageSet, ImageSet] | None:
    """The ``(pool, test)`` that :func:`write_cache` wrote, or None if there is none that can be read."""
    try:
        with safe_open(path, "pt") as file:
            classes = tuple(json.loads(file.metadata()["classes"]))
            tensors = [file.get_tensor(name) for name in ("images", "labels", "test_images", "test_labels")]
    except (OSError, SafetensorError):  # absent or damaged: the pictures are decoded again and the file replaced
        return None
    return ImageSet(tensors[0], tensors[1], classes), ImageSet(tensors[2], tensors[3], classes)


def write_cache(path: Path, pool: ImageSet, test: ImageSet) -> None:
    """Write both sets to ``path`` at once or not at all; a folder that cannot be written is a warning."""
    tensors = {
        "images": pool.images,
        "labels": pool.labels,
        "test_images": test.images,
        "test_labels": test.labels,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
            temporary = Path(folder, path.name)
            save_file(tensors, temporary, {"classes": json.dumps(pool.classes)})
            os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        message = f"data.cache={path.parent}: pictures are decoded anew every time ({error}); name another folder"
        warnings.warn(message, NasWarning, stacklevel=2)
