"""TrivialAugment and RandAugment for whole batches: an operation of its own for each image, at the cost of few calls.

The images of a batch that drew the same operation are changed together, each as strongly as it drew. What becomes of an
image is what ``torchvision.transforms.v2`` makes of it, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from nas.data.augment.crops import CHUNK

LEVELS = 31
"""Of strength, evenly spaced from none to the greatest."""
GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
COLOUR = ("brightness", "color", "contrast", "sharpness")
OPERATIONS = ("identity", *GEOMETRY, *COLOUR, "posterize", "solarize", "autocontrast", "equalize")


@dataclass(frozen=True)
class Policy:
    """Which strengths the operations have.

    Attributes:
        rounds: operations for each image, one after the other.
        level: of their strength, below ``LEVELS``; None draws it.
        shear: at most, pixels by which a row moves against the next one.
        translate: at most, pixels, for a side of an image.
        rotate: at most, degrees.
        colour: at most, share by which brightness, saturation, contrast or sharpness is more or less.
        bits: at most, that a value loses.
    """

    rounds: int
    level: int | None
    shear: float
    translate: Callable[[int], float]
    rotate: float
    colour: float
    bits: int


POLICIES = {
    "trivial": Policy(1, None, 0.99, lambda side: 32.0, 135.0, 0.99, 6),
    "randaugment": Policy(2, 9, 0.3, lambda side: 150 / 331 * side, 30.0, 0.9, 4),
}
"""By name: TrivialAugment with its wide strengths (Müller and Hutter, 2021), and RandAugment with two operations of
strength 9 (Cubuk et al., 2020), both as torchvision has them."""


def draw(policy: Policy, number: int, draws: torch.Generator) -> Tensor:
    """Of each round and image the operation, the level and the direction, uint8 ``(rounds, 3, number)``."""
    highs = (len(OPERATIONS), LEVELS, 2) * policy.rounds
    return torch.stack([torch.randint(high, (number,), generator=draws) for high in highs]).view(-1, 3, number).byte()


def count_operations(drawn: Tensor) -> Tensor:
    """How many of the images that drew ``(..., 3, n)`` have which operation, int64 ``(..., OPERATIONS)``."""
    operations = drawn[..., 0, :].long()
    found = operations.new_zeros(*operations.shape[:-1], len(OPERATIONS))
    return found.scatter_add_(-1, operations, torch.ones_like(operations))


def augmented(images: Tensor, policy: Policy, drawn: Tensor, counts: Sequence[Sequence[int]]) -> Tensor:
    """The images after the operations that were drawn for them.

    Args:
        images: uint8 ``(n, C, H, W)``, of one channel or three.
        policy: how strong the operations are.
        drawn: uint8 ``(rounds, 3, n)``, as :func:`draw` gives it, on the device of ``images``.
        counts: :func:`count_operations` of it: of a GPU they would have to be waited for.

    Returns:
        uint8 ``(n, C, H, W)``.
    """
    many = max(1, CHUNK // images[0].numel()) if images.device.type == "cpu" else len(images)
    for (operations, levels, directions), sizes in zip(drawn.long(), counts, strict=True):
        order = operations.argsort(stable=True)
        images = images.index_select(0, order)  # twice whole rows: indexed writes are far slower
        strengths = levels[order] if policy.level is None else torch.full_like(levels, policy.level)
        alike = (values.split(sizes) for values in (images, strengths, 1 - 2 * directions[order]))
        for name, *each in zip(OPERATIONS, *alike, strict=True):
            if name == "identity" or not len(each[0]):
                continue
            for pixels, level, sign in zip(*(values.split(many) for values in each), strict=True):
                pixels.copy_(_operated(name, pixels, policy, level, sign))
        images = images.index_select(0, order.argsort())
    return images


def _operated(name: str, images: Tensor, policy: Policy, levels: Tensor, signs: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional  # takes a second to import

    def up_to(most: float) -> Tensor:
        return torch.linspace(0.0, most, LEVELS, device=levels.device)[levels].double()

    def each(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)

    if name in GEOMETRY:
        most = {"shear": policy.shear, "translate": policy.translate(images.shape[-1]), "rotate": policy.rotate}
        return _moved(images, name, up_to(most[name.partition("_")[0]]) * signs)
    if name in COLOUR:
        factors = 1 + up_to(policy.colour) * signs
        return _coloured(images, name, each(factors.float()), each((1 - factors).float()))
    if name == "posterize":
        lost = (levels * policy.bits / (LEVELS - 1)).round().int()
        return images & each((255 << lost & 255).byte())
    if name == "solarize":
        bright = images >= each(torch.linspace(1.0, 0.0, LEVELS, device=levels.device)[levels] * 255)
        return images ^ bright.byte().mul_(255)  # a value and 255 less the value have no bit in common
    return {"autocontrast": functional.autocontrast, "equalize": functional.equalize}[name](images)


def _moved(images: Tensor, name: str, amounts: Tensor) -> Tensor:
    """Each image moved by its amount: the nearest pixel, or black where there is none."""
    height, width = images.shape[2:]
    # Where the pixel at (x, y, 1) comes from; (0, 0) is the middle of an image, and shears keep its upper left corner.
    source = torch.eye(2, 3, dtype=torch.float64, device=images.device).repeat(len(images), 1, 1)
    match name:
        case "shear_x":
            source[:, 0, 1], source[:, 0, 2] = amounts, amounts * height / 2
        case "shear_y":
            source[:, 1, 0], source[:, 1, 2] = amounts, amounts * width / 2
        case "translate_x":
            source[:, 0, 2] = -amounts.trunc()
        case "translate_y":
            source[:, 1, 2] = -amounts.trunc()
        case "rotate":
            turns = amounts.deg2rad()
            source[:, 0, 0] = source[:, 1, 1] = turns.cos()
            source[:, 1, 0], source[:, 0, 1] = turns.sin(), -turns.sin()
    places = torch.ones(height, width, 3, device=images.device)
    places[..., 0] = torch.arange(width, device=images.device) - (width - 1) / 2
    places[..., 1] = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    scaled = source.float().transpose(1, 2)
    scaled[..., 0] /= width / 2
    scaled[..., 1] /= height / 2
    grid = places.view(1, -1, 3).expand(len(images), -1, -1).bmm(scaled).view(-1, height, width, 2)
    return grid_sample(images.float(), grid, mode="nearest", align_corners=False).byte()


def _coloured(images: Tensor, name: str, factors: Tensor, rest: Tensor) -> Tensor:
    """``factors`` of each image and the ``rest`` of what has none of a quality: no colour, no contrast, no edges."""
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    values = images.float()
    match name:
        case "brightness":
            values *= factors
        case "color" if images.shape[1] == 3:
            values.mul_(factors).addcmul_(rgb_to_grayscale(images).float(), rest)
        case "contrast":
            mean = rgb_to_grayscale(images).float().mean((1, 2, 3), keepdim=True)
            values.mul_(factors).addcmul_(mean, rest)
        case "sharpness":
            inside = values[..., 1:-1, 1:-1]
            inside.addcmul_(_smooth(values).sub_(inside), rest)
    return values.clamp_(0, 255).byte()


def _smooth(values: Tensor) -> Tensor:
    """Without the border: the mean of a pixel, which counts five times, and the eight around it.

    A tenth of the time of a convolution by channels, which rounds to the same.
    """
    rows = values[..., :-2] + values[..., 1:-1] + values[..., 2:]
    total = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]
    return total.add_(values[..., 1:-1, 1:-1], alpha=4).div_(13).round_()
