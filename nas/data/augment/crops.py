"""Crops of whole batches: over a border, random and resized, and squares that are cut out."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

ASPECT = 4 / 3
"""At most, of the longer side of a crop over its shorter one."""
CHUNK = 1 << 18
"""Values that a CPU makes at a time, so that they stay in its cache: twice as fast as a batch of 64 x 3 x 256 x 256."""


def draw_boxes(number: int, least: float, draws: torch.Generator) -> Tensor:
    """Boxes of random area, shape and place inside a square of side 1, float32 ``(4, number)``.

    The rows are top, left, height and width. The area is uniform in [``least``, 1] and the ratio of width to height
    log-uniform in [3/4, 4/3], as in Szegedy et al., "Going deeper with convolutions" (2015); where a box of its area
    would not fit into the square, in the part of this interval in which it does.
    """
    area, ratio, *place = torch.rand(4, number, generator=draws, dtype=torch.float64)
    log_area = (least + (1 - least) * area).log()
    log_ratio = (2 * ratio - 1) * (-log_area).clamp(max=math.log(ASPECT))
    sides = torch.stack([log_area - log_ratio, log_area + log_ratio]).div(2).exp()
    return torch.cat([torch.stack(place) * (1 - sides), sides]).float()


def resized_crops(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """What lies in each image's box, scaled to a square, between pixels linearly.

    No average is taken over what becomes smaller; that matters little for a crop that is at most 8/7 as large.

    Args:
        images: uint8 ``(B, C, H, W)``, on the device of ``boxes``.
        boxes: ``(4, B)``, as :func:`draw_boxes` gives them; of negative width, from their right side on, they mirror.
        size: side of the square in pixels.

    Returns:
        uint8 ``(B, C, size, size)``.
    """
    steps = (torch.arange(size, device=boxes.device) + 0.5) / size
    rows, columns = 2 * (boxes[:2, :, None] + boxes[2:, :, None] * steps) - 1
    found = images.new_empty(*images.shape[:2], size, size)
    many = max(1, CHUNK // images[0].numel()) if images.device.type == "cpu" else len(images)
    for pixels, x, y, crops in zip(*(whole.split(many) for whole in (images, columns, rows, found)), strict=True):
        places = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
        crops.copy_(grid_sample(pixels.float(), places, padding_mode="border", align_corners=False).round_())
    return found


class Frame:
    """Moves images over a border of zeros and mirrors them: ``number`` of ``shape``, ``(C, H, W)``, at a time."""

    def __init__(self, number: int, shape: tuple[int, int, int], border: int, device: torch.device) -> None:
        channels, height, width = shape
        row, plane = width + 2 * border, (width + 2 * border) * (height + 2 * border)
        framed = torch.zeros(number, channels, height + 2 * border, row, dtype=torch.uint8, device=device)
        self._inside = framed[:, :, border : border + height, border : border + width]
        # Entry i of all windows is the one whose upper left corner is value i; they overlap and take no memory.
        last = framed.numel() - ((channels - 1) * plane + (height - 1) * row + width)
        self._windows = framed.as_strided((last + 1, *shape), (1, plane, row, 1))
        self._border, self._row, self._image = border, row, channels * plane

    def corners(self, down: Tensor, right: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """In which order images are to be given, those that are ``mirrored`` (1, not 0) first, and the windows to take.

        All are int64 ``(..., n)``; ``down`` and ``right`` are a window's upper left corner in an image and its border.
        """
        order = mirrored.argsort(dim=-1, descending=True, stable=True)
        right = right + mirrored * 2 * (self._border - right)  # in the mirror image
        return order, order.argsort(-1) * self._image + down * self._row + right

    def __call__(self, images: Tensor, mirrored: int, corners: Tensor) -> Tensor:
        """The windows at ``corners``, uint8 ``(n, C, H, W)``, of such images, the first of which are mirrored."""
        self._inside[:mirrored].copy_(images[:mirrored].flip(-1))  # a third of the time of mirroring all and choosing
        self._inside[mirrored:].copy_(images[mirrored:])
        return self._windows.index_select(0, corners)


def erase(x: Tensor, side: int, centres: Tensor) -> None:
    """Set a square of ``side`` pixels around ``centres``, ``(2, B)`` rows and columns, to 0 in each image."""
    top, left = (centres - side // 2)[:, :, None]
    rows, columns = (torch.arange(length, device=x.device) for length in x.shape[2:])
    erased_rows = ((rows >= top) & (rows < top + side)).float()[:, :, None]
    erased_columns = ((columns >= left) & (columns < left + side)).float()[:, None, :]
    kept = 1 - erased_rows * erased_columns
    for channel in x.unbind(1):  # in either memory format faster than all channels at once
        channel.mul_(kept)  # with zeros and ones: a tenth of the time of masked_fill_
