"""How large a data set is, from its settings and the names of its files, before any of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nas.data.folder import list_images
from nas.data.small import DIGITS, DIGITS_SIZE
from nas.settings import (
    Cifar100Settings,
    CifarSettings,
    DataSettings,
    DigitsSettings,
    FolderSettings,
    SyntheticSettings,
)

LABEL_BYTES = 8
CIFAR = 60_000


@dataclass(frozen=True)
class DataSize:
    """What is known of a data set before it is loaded.

    Attributes:
        images: in all splits together.
        input_shape: ``(C, H, W)`` of one image.
        classes: their number.
    """

    images: int
    input_shape: tuple[int, int, int]
    classes: int

    @property
    def bytes(self) -> int:
        """What all images and labels take, uint8 and int64."""
        return self.images * (prod(self.input_shape) + LABEL_BYTES)


def expected_size(settings: DataSettings) -> DataSize | None:
    """The size of the data set that ``settings`` describe.

    It is None where its folder or zip cannot be read, or where there is no such data set: loading explains that.
    """
    match settings:
        case DigitsSettings():
            return DataSize(DIGITS, (3, DIGITS_SIZE, DIGITS_SIZE), 10)
        case CifarSettings():
            return DataSize(CIFAR, (3, 32, 32), 100 if isinstance(settings, Cifar100Settings) else 10)
        case SyntheticSettings(size=size, image_size=side):
            return DataSize(size + max(1, size // 4), (settings.channels, side, side), settings.classes)
        case FolderSettings(image_size=side):
            images = [image for split in (list_images(settings) or {}).values() for image in split]
            if images:
                return DataSize(len(images), (3, side, side), len({label for label, _ in images}))
    return None
