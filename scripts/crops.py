"""How long ways to make a batch of random resized crops take, and how far each is from one that averages.

python scripts/crops.py > crops.json      # docs/data/ has the result, which docs/images.md shows
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import resized_crop

import nas.data.augment.crops
from nas.checkpoint.file import versions
from nas.data.augment.crops import draw_boxes, resized_crops

BATCH, ROUNDS, LEAST = 64, 40, 0.35
SIZES = {32: 32, 64: 64, 224: 256}
"""Sides in pixels of a crop and of the images that it is cut from."""


def whole_batch(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """As the package does it, without chunks."""
    chunk, nas.data.augment.crops.CHUNK = nas.data.augment.crops.CHUNK, 1 << 60
    try:
        return resized_crops(images, boxes, size)
    finally:
        nas.data.augment.crops.CHUNK = chunk


def corners(images: Tensor, boxes: Tensor) -> list[list[int]]:
    """Boxes in whole pixels: top, left, height and width of each."""
    top, left, height, width = (boxes * images.shape[-1]).round().int()
    return torch.stack([top, left, height.clamp(min=1), width.clamp(min=1)], 1).tolist()


def one_by_one(dtype: torch.dtype) -> Callable[[Tensor, Tensor, int], Tensor]:
    """``interpolate`` with an average over what becomes smaller, on each image of ``dtype``."""

    def crops(images: Tensor, boxes: Tensor, size: int) -> Tensor:
        found = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
        for row, (top, left, height, width) in enumerate(corners(images, boxes)):
            box = images[row : row + 1, :, top : top + height, left : left + width].to(dtype)
            crop = interpolate(box, (size, size), mode="bilinear", antialias=True)[0]
            found[row] = crop.round_() if dtype.is_floating_point else crop
        return found

    return crops


def torchvision(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """``resized_crop`` of torchvision.transforms.v2 on each image."""
    pairs = zip(images, corners(images, boxes), strict=True)
    return torch.stack([resized_crop(image, *box, [size, size]) for image, box in pairs])


def products(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """A matrix of weights for the rows and one for the columns of each image, which average too."""
    steps, pixels = (torch.arange(size) + 0.5) / size, torch.arange(images.shape[-1]) + 0.5

    def weights(start: Tensor, side: Tensor) -> Tensor:
        places = (start[:, None] + side[:, None] * steps) * images.shape[-1]
        reach = (side * images.shape[-1] / size).clamp(min=1)[:, None, None]
        found = (1 - (pixels - places[:, :, None]).abs() / reach).clamp(min=0)
        return found / found.sum(-1, keepdim=True)

    rows, columns = weights(boxes[0], boxes[2]), weights(boxes[1], boxes[3])
    wide = (images.float().flatten(1, 2) @ columns.mT).unflatten(1, images.shape[1:3])
    return (rows[:, None] @ wide).round_().to(torch.uint8)


def gathers(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Two rows and then two columns for each pixel, weighted."""
    steps, side = (torch.arange(size) + 0.5) / size, images.shape[-1]
    places = ((boxes[:2, :, None] + boxes[2:, :, None] * steps) * side - 0.5).clamp(0, side - 1)
    low = places.long().clamp(max=side - 2)
    (top, left), (down, right) = low[:, :, None], (places - low)[:, :, None]
    lines = images.flatten(0, 2)
    first = torch.arange(len(images) * 3).view(-1, 3, 1) * side
    upper, lower = (lines[(first + top + more).flatten()].view(*images.shape[:2], size, side) for more in (0, 1))
    wide = torch.lerp(upper.float(), lower.float(), down[..., None])
    left = left[:, :, None].expand(-1, 3, size, -1)
    found = torch.lerp(wide.gather(3, left), wide.gather(3, left + 1), right[:, :, None])
    return found.round_().to(torch.uint8)


WAYS = {
    "`grid_sample`, chunks of 2^18 values (taken)": resized_crops,
    "`grid_sample`, the whole batch": whole_batch,
    "`interpolate`, each image, uint8": one_by_one(torch.uint8),
    "`interpolate`, each image, float32": one_by_one(torch.float32),
    "torchvision's `resized_crop`, each image": torchvision,
    "two gathers of rows and columns": gathers,
    "two matrix products": products,
}


def main() -> None:
    """Entry point."""
    torch.set_num_threads(1)
    draws, columns = torch.Generator().manual_seed(0), dict[str, dict[str, str]]()
    for size, side in SIZES.items():
        blurred = interpolate(torch.rand(BATCH, 3, side // 4, side // 4, generator=draws), (side, side), mode="bicubic")
        images, boxes = (blurred * 255).clamp(0, 255).byte(), draw_boxes(BATCH, LEAST, draws)
        boxes = (boxes * side).round() / side  # those that ways with whole pixels can take
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(ROUNDS):
            for name, way in WAYS.items():
                begin = time.perf_counter()
                way(images, boxes, size)
                times[name].append((time.perf_counter() - begin) * 1000)
        found = columns[f"{side} to {size}, ms"] = {}
        for name, taken in times.items():
            low, _, high = statistics.quantiles(taken)
            found[name] = f"{statistics.median(taken):.2f} ±{(high - low) / 2:.2f}"
    best = one_by_one(torch.float32)(images, boxes, size).float()
    columns["mean difference"] = {
        name: f"{(way(images, boxes, size) - best).abs().mean():.2f}" for name, way in WAYS.items()
    }
    rows = [[name, *(column[name] for column in columns.values())] for name in WAYS]
    print(json.dumps({"columns": ["", *columns], "rows": rows, "versions": versions()}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
