"""A small data set of images, as a folder and as a zip."""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import ImageSet
from nas.data.read.folder import load_folder
from nas.errors import DataError
from nas.settings import FolderSettings

SIDE = 8


def encoded(seed: int, kind: str = "PNG", width: int = SIDE, height: int = SIDE, mode: str = "RGB", **more) -> bytes:
    """The file of an image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind, **more)
    return buffer.getvalue()


NAMES = [
    f"{split}/{name}/{i}.png" for split, count in (("train", 4), ("test", 2)) for name in "ba" for i in range(count)
]
FILES = {name: encoded(seed) for seed, name in enumerate(NAMES)}
"""Of the classes a and b; 8 images to train on and 4 to test with."""


def as_folder(root: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def as_zip(path: Path, files: dict[str, bytes] = FILES, compression: int = zipfile.ZIP_STORED, extra=()) -> Path:
    """A zip of ``files`` and of more entries ``(name, data)``, whose names may occur twice."""
    with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, data in [*files.items(), *extra]:
            archive.writestr(name, data)
    return path


def of(root: Path, **more) -> FolderSettings:
    """The settings of such a data set, with a cache beside it."""
    return FolderSettings(**{"root": str(root), "cache": str(root.parent / "cache"), "image_size": SIDE, **more})


def refused(root: Path, rule: str) -> None:
    """Loading ``root`` is refused in one line that names it and matches ``rule``, and leaves no images."""
    with pytest.raises(DataError, match=rule) as caught:
        load_folder(of(root))
    assert str(caught.value).startswith(f"data.root={root}")
    assert "\n" not in str(caught.value)
    assert {path.suffix for path in (root.parent / "cache").glob("*")} <= {".lock"}


def pixels_of(images: ImageSet) -> torch.Tensor:
    """All of them, uint8 ``(N, C, H, W)``."""
    return images.take(torch.arange(len(images)))


def assert_same_sets(found, expected, what: str = "") -> None:
    for left, right in zip(found, expected, strict=True):
        assert torch.equal(pixels_of(left), pixels_of(right)), what
        assert torch.equal(left.labels, right.labels), what
        assert left.classes == right.classes, what
