"""CIFAR-10 and CIFAR-100, downloaded and checked by torchvision."""

from __future__ import annotations

import io
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from nas.data.images import ImageSet
from nas.errors import DataError, SettingError
from nas.settings import CifarSettings

WAYS_OUT = "or use data=digits, which needs no network, or your own images with data=folder data.root=PATH"


def load_cifar(settings: CifarSettings, progress: bool = False) -> tuple[ImageSet, ImageSet]:
    """CIFAR-10 or CIFAR-100 as ``(pool, test)``: 50,000 and 10,000 images, uint8 ``(N, 3, 32, 32)``.

    Files already under ``settings.root`` are checked and used; otherwise they are downloaded there, if
    ``settings.download`` allows it. Nothing is printed on stdout; with ``progress`` a bar is shown on stderr.

    Raises:
        SettingError: ``settings.name`` is neither ``cifar10`` nor ``cifar100``.
        DataError: the files are absent, damaged, or cannot be downloaded or written.
    """
    if settings.name not in ("cifar10", "cifar100"):
        raise SettingError("data.name", settings.name, "must be cifar10 or cifar100", "choose one of them")
    from torchvision import datasets  # takes a second to import

    dataset = datasets.CIFAR10 if settings.name == "cifar10" else datasets.CIFAR100
    root = str(Path(settings.root).expanduser())
    with ExitStack() as silence:  # torchvision prints on stdout in some releases
        silence.enter_context(redirect_stdout(io.StringIO()))
        if not progress:
            silence.enter_context(redirect_stderr(io.StringIO()))
        try:
            train = dataset(root, train=True, download=settings.download)
            test = dataset(root, train=False, download=False)
        except (OSError, HTTPException) as error:  # no network, no such host, cut off, or a root that is read-only
            rule = f"{settings.name} could not be downloaded to this folder or read from it ({error})"
            raise DataError("data.root", settings.root, rule, f"check network and folder, {WAYS_OUT}") from error
        except RuntimeError as error:  # torchvision's word for files that are absent or fail their checksum
            rule = f"{settings.name} is not there, or its files are damaged"
            remedy = f"delete what is left of it and set data.download=true, {WAYS_OUT}"
            raise DataError("data.root", settings.root, rule, remedy) from error
    return _image_set(train), _image_set(test)


def _image_set(dataset: Any) -> ImageSet:
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()  # torchvision holds (N, H, W, C)
    return ImageSet(images, torch.tensor(dataset.targets, dtype=torch.int64), tuple(dataset.classes))
