"""Images in order and normalised, as they are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import overload

import torch
from torch import Tensor

from nas.data.images import ImageSet, to_device

Batch = tuple[Tensor, Tensor]
"""Normalised images ``(B, C, H, W)`` and their labels, int64 ``(B,)``; of mixed images float32 ``(B, classes)``."""
KEPT_BYTES = 1 << 26
"""Of the normalised images of a set that :class:`Ordered` keeps."""


class Ordered(Sequence[Batch]):
    """Every image once, in order and normalised: ``(x, y)`` as in :class:`~nas.data.Batches`; the last may be smaller.

    A batch is made when it is asked for. Those of a small set are kept, since a set is often gone through again.

    Args:
        images: the images.
        mean, std: ``Splits.mean``, ``Splits.std``.
        batch_size: images a batch.
        device: where the batches are made.
        channels_last: give ``x`` in that memory format.
    """

    def __init__(
        self,
        images: ImageSet,
        mean: Tensor,
        std: Tensor,
        batch_size: int,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> None:
        self._images, self._size, self._device = images.to(device), batch_size, device
        self._how = *shift_and_scale(mean, std, device), channels_last
        self._keeps, self._kept = 4 * len(images) * prod(images.shape) <= KEPT_BYTES, dict[int, Batch]()

    def __len__(self) -> int:
        return -(-len(self._images) // self._size)

    @overload
    def __getitem__(self, number: int) -> Batch: ...
    @overload
    def __getitem__(self, number: slice) -> list[Batch]: ...
    def __getitem__(self, number: int | slice) -> Batch | list[Batch]:
        if isinstance(number, slice):
            return [self[one] for one in range(len(self))[number]]
        number = range(len(self))[number]
        if number in self._kept:
            return self._kept[number]
        index = self._index(number)
        x = normalised(to_device(self._images.take(index), self._device), *self._how)
        self._images.expect(self._index(number + 1))
        batch = x, to_device(self._images.labels[index], self._device)
        if self._keeps:
            self._kept[number] = batch
        return batch

    @property
    def labels(self) -> list[Tensor]:
        """Those of each batch; no image is made."""
        return [*self._images.labels.to(self._device).split(self._size)]

    def _index(self, number: int) -> Tensor:
        first, end = (min(place * self._size, len(self._images)) for place in (number, number + 1))
        return torch.arange(first, end)


def labels_of(batches: Sequence[Batch]) -> list[Tensor]:
    """The labels of each batch."""
    return batches.labels if isinstance(batches, Ordered) else [y for _, y in batches]


def unnormalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalised images ``(..., C, H, W)`` back on the [0, 1] scale, to be looked at."""
    return (x * std.to(x).view(-1, 1, 1) + mean.to(x).view(-1, 1, 1)).clamp(0, 1)


def shift_and_scale(mean: Tensor, std: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """``(C, 1, 1)`` each, such that ``(pixels - shift) * scale`` is ``(pixels / 255 - mean) / std``."""
    return (mean * 255).view(-1, 1, 1).to(device), (1 / (std * 255)).view(-1, 1, 1).to(device)


def memory_format(channels_last: bool) -> torch.memory_format:
    """``torch.channels_last``, or the usual one."""
    return torch.channels_last if channels_last else torch.contiguous_format


def normalised(pixels: Tensor, shift: Tensor, scale: Tensor, channels_last: bool) -> Tensor:
    """``(pixels - shift) * scale`` of 0 to 255, ``(B, C, H, W)``: a new float32 tensor, in that memory format."""
    x = torch.empty_like(pixels, dtype=torch.float32, memory_format=memory_format(channels_last))
    if not channels_last:
        return x.copy_(pixels).sub_(shift).mul_(scale)
    for into, channel in zip(x.unbind(1), pixels.unbind(1), strict=True):  # half the time of all at once
        into.copy_(channel)
    shift, scale = (each.flatten().repeat(x.shape[3]) for each in (shift, scale))  # whole rows: a third of the time
    x.permute(0, 2, 3, 1).flatten(2).sub_(shift).mul_(scale)
    return x
