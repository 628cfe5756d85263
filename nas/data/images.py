"""Labelled images, how they are split, and the statistics they are normalised with."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from nas.errors import DataError
from nas.seeds import generator

CHUNK_BYTES = 1 << 24
"""Of the pixels that are copied at a time where all of a set are gone through."""


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """``x`` on ``device``; what goes to a GPU goes from pinned memory, and is not waited for."""
    if torch.device(device).type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size: some rows of a tensor, which may be mapped from a file and larger than memory.

    Attributes:
        images: uint8 ``(M, C, H, W)``, 0 is black. Whoever wants pixels asks for some of them with :meth:`take`.
        labels: int64 ``(N,)``, each an index into ``classes``.
        classes: names of the classes.
        index: int64 ``(N,)``, which rows of ``images`` these are; None for all of them, in order.
        side: of the square in the middle of an image that a network is shown; None for the whole image.
        file: that ``images`` is mapped from; None in memory.
        mapping: of that file; None where the kernel cannot be told what is wanted next.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor | None = None
    side: int | None = None
    file: Path | None = None
    mapping: mmap.mmap | None = None

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8, self.images.dtype
        assert self.labels.dtype == torch.int64, self.labels.dtype
        assert self.images.ndim == 4, self.images.shape
        rows = self.images.shape[:1] if self.index is None else self.index.shape
        assert self.labels.shape == rows, (self.labels.shape, rows)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"ImageSet({len(self):,} images of {shape}, {len(self.classes)} classes)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of one image, as a network is shown it."""
        channels, height, width = self.images.shape[1:]
        return (channels, height, width) if self.side is None else (channels, self.side, self.side)

    @property
    def device(self) -> torch.device:
        """Where the pixels are; labels and index are on the CPU."""
        return self.images.device

    def take(self, index: Tensor, whole: bool = False) -> Tensor:
        """A copy of the images at ``index``, int64 ``(n,)``, in that order: uint8 ``(n, C, H, W)``.

        It is that of their middle, if there is a ``side``; unless ``whole`` asks for all that is kept of them.
        """
        rows, images = index if self.index is None else self.index[index], self.images
        if self.side is not None and not whole:
            top, left = ((length - self.side) // 2 for length in images.shape[2:])
            images = images[:, :, top : top + self.side, left : left + self.side]
        return images.index_select(0, to_device(rows, self.device))

    def expect(self, index: Tensor) -> None:
        """Let the kernel read the images at ``index``, int64 ``(n,)``, while this process does something else."""
        if self.mapping is None:
            return
        rows, length = index if self.index is None else self.index[index], self.images[0].numel()
        for start in (int(self.images.storage_offset()) + rows * length).tolist():
            page = start % mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_WILLNEED, start - page, page + length)

    def chunks(self) -> Iterator[Tensor]:
        """All images in order, some of them at a time: the indices of these, which are expected."""
        for index in torch.arange(len(self)).split(max(1, CHUNK_BYTES // self.images[:1].numel())):
            self.expect(index)
            yield index

    def subset(self, index: Tensor) -> ImageSet:
        """The images at ``index``, int64 ``(n,)``, in that order; they share their pixels with this set."""
        rows = index if self.index is None else self.index[index]
        return replace(self, labels=self.labels[index], index=rows)

    def to(self, device: torch.device | str) -> ImageSet:
        """A set of the same images whose pixels, and no others, are on ``device``.

        It is the set itself where they are there, or would take more than a quarter of the free memory of a GPU.
        """
        if torch.device(device).type == self.device.type:
            return self
        shape = len(self), *self.images.shape[1:]
        if torch.device(device).type == "cuda" and 4 * prod(shape) > torch.cuda.mem_get_info(device)[0]:
            return self
        pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        for index in self.chunks():
            pixels[index[0] : index[-1] + 1] = to_device(self.take(index, whole=True), device)
        return replace(self, images=pixels, index=None, file=None, mapping=None)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set in three disjoint parts, with the statistics of the training part.

    Attributes:
        train: what weights are learned on.
        val: held out of the training images; subnetworks are compared and gates are learned on it.
        test: the data set's own test split; for the last word alone.
        mean: float32 ``(C,)``, of the training images on the [0, 1] scale.
        std: float32 ``(C,)``, likewise; 1 where a channel is constant.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    mean: Tensor
    std: Tensor

    def __repr__(self) -> str:
        return f"Splits(train={self.train!r}, val={self.val!r}, test={self.test!r})"

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.shape[0]

    @property
    def image_size(self) -> int:
        """Side of an image in pixels; images are square."""
        return self.train.shape[-1]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """What a space is built for: channels, side of an image in pixels, number of classes."""
        return self.channels, self.image_size, len(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of one image."""
        return self.channels, self.image_size, self.image_size

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.train.classes

    def calibration(self, seed: int, number: int) -> ImageSet:
        """The training images that BatchNorm statistics are estimated on: the same ones wherever a run is evaluated.

        Args:
            seed: of the run.
            number: how many of them, ``evaluate.recalibrate_images``.
        """
        order = torch.randperm(len(self.train), generator=generator(seed, "recalibrate"))
        return self.train.subset(order[:number])


def ranking_images(pool: ImageSet, seed: int, number: int) -> ImageSet:
    """The held-out images that rank candidates: the same ones for all of them, with the same share of each class.

    Args:
        pool: a split.
        seed: of the run.
        number: how many at most; fewer of them are some of more. 0 takes all.
    """
    if not 0 < number < len(pool):
        return pool
    return thinned(pool, number, generator(seed, "ranking images"), "evaluate.images")


def stratified(pool: ImageSet, fraction: float, draws: torch.Generator, key: str) -> tuple[ImageSet, ImageSet]:
    """Split ``pool`` into ``(rest, held_out)``, class by class; both keep the pool's order.

    Args:
        pool: what to split.
        fraction: share of each class that is held out; at least one image of each.
        draws: decides which images.
        key: the setting that holds ``fraction``, for the message.

    Raises:
        DataError: a class has too few images to be in both parts.
    """
    held_out = torch.zeros(len(pool), dtype=torch.bool)
    for label, name in enumerate(pool.classes):
        members = (pool.labels == label).nonzero().flatten()
        count = max(1, round(fraction * len(members)))
        if not len(members):
            rule = "has no image; labels count the classes, 0, 1, 2 and so on"
            raise DataError("class", repr(name), rule, "number the labels without a gap, or leave this class out")
        if count >= len(members):
            rule = f"leaves class {name!r}, which has {len(members)} images outside the test split, none to train on"
            raise DataError(key, fraction, rule, "have at least 2 images a class, or hold out fewer")
        held_out[members[torch.randperm(len(members), generator=draws)[:count]]] = True
    return pool.subset((~held_out).nonzero().flatten()), pool.subset(held_out.nonzero().flatten())


def thinned(pool: ImageSet, number: int, draws: torch.Generator, key: str) -> ImageSet:
    """``number`` of the images of ``pool``, in its order, with the same share of each class.

    Args:
        pool: what to choose from.
        number: how many to keep.
        draws: decides which images.
        key: the setting that holds ``number``, for the message.

    Raises:
        DataError: there are fewer images than that.
    """
    if number > len(pool):
        raise DataError(key, number, f"there are {len(pool)} training images", f"write {key}=0 for all of them")
    place = torch.empty(len(pool), dtype=torch.float64)
    for label in range(len(pool.classes)):
        members = (pool.labels == label).nonzero().flatten()
        # The k-th of n members stands at (k + 1/2) / n of the way: any first part has the same share of every class.
        place[members[torch.randperm(len(members), generator=draws)]] = (
            torch.arange(len(members), dtype=torch.float64) + 0.5
        ) / max(1, len(members))
    return pool.subset(place.argsort(stable=True)[:number].sort().values)


def statistics(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, float32 ``(C,)``, on the [0, 1] scale.

    They are taken from counts of the 256 values, in float64: exact, and without a float copy of the images. A
    constant channel gets the deviation 1, so that dividing by it gives zeros and not NaN.
    """
    counts = torch.zeros(images.shape[0], 256, dtype=torch.float64)
    for index in images.chunks():
        for channel, pixels in enumerate(images.take(index).transpose(0, 1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    share = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    constant = (counts > 0).sum(1) == 1
    return mean.float(), torch.where(constant, 1.0, variance.sqrt()).float()
