"""Images that are there already, as arrays, tensors or a data set of torch: checked, and as this package keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas.data.images import ImageSet
from nas.errors import DataError

CHUNK = 4096  # images that are floats at a time
COLOURS = (1, 3)
"""Channels that are told apart from the sides of an image."""
REMEDY = "give raw square images, and a label for each"
LAYOUTS = "must be (N, H, W), (N, C, H, W), or (N, H, W, C) with 1 or 3 channels, and H = W"


def image_set(images: Any, labels: Any = None, classes: Sequence[str] | None = None, split: str = "") -> ImageSet:
    """Labelled images as this package keeps them.

    Args:
        images: uint8, or floats from 0 to 1, array or tensor: ``(N, C, H, W)``; ``(N, H, W)``, which have 1 channel;
            or ``(N, H, W, C)`` with 1 or 3 channels. Without ``labels``, a pair ``(images, labels)``, or what
            :func:`from_dataset` takes; an ``ImageSet`` stays as it is.
        labels: ints ``(N,)`` from 0 on.
        classes: their names; numbers if left out.
        split: what stands before ``images`` and ``labels`` in a message.

    Raises:
        DataError: shape, type or values are others than that.
    """
    if labels is None:
        if isinstance(images, ImageSet):
            return images
        if not isinstance(images, tuple):
            return from_dataset(images, classes)
        images, labels = images
    pixels, numbers = torch.as_tensor(images).cpu(), torch.as_tensor(labels).cpu()
    pixels = as_bytes(channels_first(pixels, f"{split}images"), f"{split}images")
    key, many = f"{split}labels", len(pixels)
    whole = not numbers.is_floating_point() and not numbers.is_complex()
    _require(whole and numbers.shape == (many,), key, f"{numbers.dtype} {tuple(numbers.shape)}", f"must be {many} ints")
    numbers = numbers.long()
    low, high = int(numbers.min()), int(numbers.max())
    ok, rule = low >= 0 and (classes is not None or high < many), "must count the classes, 0, 1, 2 and so on"
    _require(ok, key, f"{low} to {high}", rule)  # before there are names of a number that a file may have made up
    names = tuple(map(str, classes if classes is not None else range(high + 1)))
    _require(high < len(names), key, f"{low} to {high}", f"must be from 0 to {len(names) - 1}")
    return ImageSet(pixels.contiguous(), numbers, names)


def from_dataset(dataset: Any, classes: Sequence[str] | None = None) -> ImageSet:
    """The images of a data set of torch, as torchvision has them, read once and kept in memory.

    Labels are those that the data set gives, so that its ``target_transform`` counts.

    Args:
        dataset: gives pairs ``(image, label)``: an image of Pillow, in grey or RGB, or uint8 or floats from 0 to 1,
            ``(C, H, W)``, all of one size and square; a label is an int. It draws no random crops and does not
            normalise: that is done later, for whole batches.
        classes: their names; its own ``classes``, or those of what it is a ``Subset`` of, if left out.

    Raises:
        DataError: it is empty, or something in it is not like that; the message says which.
    """
    sized = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    pairs = (dataset[place] for place in range(len(dataset))) if sized else iter(dataset)
    images, labels = list[Tensor](), list[int]()
    for place, pair in enumerate(pairs):
        key = f"dataset[{place}]"
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(key, type(pair).__name__, "must be a pair (image, label)", "wrap the data set")
        image = _pixels(pair[0], key)
        if images and image.shape != images[0].shape:
            rule, remedy = (
                f"must be as the first, {tuple(images[0].shape)}",
                "add Resize and CenterCrop to its transform",
            )
            raise DataError(key, tuple(image.shape), rule, remedy)
        try:
            labels.append(index(pair[1]))
        except TypeError:
            remedy = "turn it into one by target_transform"
            raise DataError(key, pair[1], "its label must be an int", remedy) from None
        images.append(image)
    _require(bool(images), "dataset", type(dataset).__name__, "has no images")
    while classes is None and dataset is not None:
        own = getattr(dataset, "classes", None)
        classes, dataset = own if isinstance(own, list | tuple) else None, getattr(dataset, "dataset", None)
    return image_set(torch.stack(images), torch.tensor(labels), classes)


def _pixels(image: Any, key: str) -> Tensor:
    """One image of a data set, uint8, ``(C, H, W)``."""
    if isinstance(image, Image.Image):
        remedy = "let its transform begin with lambda image: image.convert('RGB')"
        if image.mode not in ("L", "RGB"):
            raise DataError(key, f"mode {image.mode}", "must be of mode L or RGB", remedy)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if image.mode == "L" else pixels.permute(2, 0, 1)
    _require(
        isinstance(image, Tensor | np.ndarray), key, type(image).__name__, "must be an image of Pillow, or a tensor"
    )
    return as_bytes(torch.as_tensor(image).cpu(), key)


def as_bytes(images: Tensor, key: str) -> Tensor:
    """``images`` as uint8; floats from 0 to 1 become 0 to 255."""
    if images.is_floating_point() and images.numel():
        low, high = float(images.min()), float(images.max())
        remedy = "divide by 255, or leave Normalize out: normalisation is done here"
        if not (low >= 0 and high <= 1):
            raise DataError(key, f"{low:g} to {high:g}", "floats must be from 0 to 1", remedy)
        images = torch.cat([(part.float() * 255).round().to(torch.uint8) for part in images.split(CHUNK)])
    _require(images.dtype == torch.uint8, key, images.dtype, "must be uint8, or floats from 0 to 1")
    return images


def channels_first(images: Tensor, key: str) -> Tensor:
    """A view ``(N, C, H, W)`` of images in any of the three layouts."""
    last = is_channels_last(tuple(images.shape), key)
    return images[:, None] if images.ndim == 3 else images.movedim(3, 1) if last else images


def is_channels_last(shape: tuple[int, ...], key: str) -> bool:
    """Whether images of this shape are ``(N, H, W, C)``: the sides are the two that are equal.

    Raises:
        DataError: they are not square, there are none, or this could be said of ``(N, C, H, W)``, too.
    """
    square, none = len(shape) == 3 and shape[1] == shape[2], 0 in shape
    first = len(shape) == 4 and shape[2] == shape[3]
    last = len(shape) == 4 and shape[1] == shape[2] and shape[3] in COLOURS
    _require((square or first or last) and not none, key, shape, LAYOUTS)
    if first and last and shape[1] > 1:
        rule, remedy = "could be (N, C, H, W) or (N, H, W, C)", "make the images larger than 3x3"
        raise DataError(key, shape, rule, remedy)
    return last and not first


def _require(ok: bool, key: str, value: object, rule: str) -> None:
    if not ok:
        raise DataError(key, value, rule, REMEDY)
