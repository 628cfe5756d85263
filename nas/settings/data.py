"""Settings of the data sets."""

from __future__ import annotations

from dataclasses import dataclass

from nas.errors import require
from nas.settings.rules import MISSING, at_most, fraction, not_negative, positive

WIDEST, MOST_BYTES = 1 << 14, 1 << 36
"""Largest side of an image; most bytes of a synthetic data set. Settings may come from a file of somebody else."""


@dataclass
class DataSettings:
    """What all data sets have in common: how they are split and augmented."""

    name: str = MISSING
    val_fraction: float = 0.1
    """Share of the training images that is held out for validation."""
    train_images: int = 0
    """Training images to keep, the same share of each class; 0 keeps all."""
    crop: int = 4
    """Pixels of zero padding that a random crop may move into; 0 switches it off."""
    flip: bool = True
    """Mirror half of the images left to right."""
    cutout: int = 0
    """Side in pixels of a square that is erased at a random place; 0 switches it off."""

    def __post_init__(self) -> None:
        fraction("data", self, "val_fraction")
        require(
            self.val_fraction > 0,
            "data.val_fraction",
            self.val_fraction,
            "must be above 0: subnetworks are compared on held-out pictures",
            "write for example data.val_fraction=0.1",
        )
        not_negative("data", self, "train_images", "crop", "cutout")


@dataclass
class DigitsSettings(DataSettings):
    """scikit-learn's 1,797 handwritten digits, resized to 32x32x3; needs no network."""

    name: str = "digits"
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    flip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction("data", self, "test_fraction")


@dataclass
class CifarSettings(DataSettings):
    """CIFAR-10 as torchvision downloads it."""

    name: str = "cifar10"
    root: str = "data"
    download: bool = True


@dataclass
class Cifar100Settings(CifarSettings):
    """CIFAR-100 as torchvision downloads it."""

    name: str = "cifar100"


@dataclass
class FolderSettings(DataSettings):
    """Class folders of images under ``train/`` and ``test/``, or a zip of them."""

    name: str = "folder"
    root: str = MISSING
    image_size: int = 32
    cache: str = "~/.cache/gated-nas"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("data", self, "image_size")
        at_most("data", self, WIDEST, "image_size")


@dataclass
class SyntheticSettings(DataSettings):
    """Noise around one random image a class; for tests and benchmarks."""

    name: str = "synthetic"
    classes: int = 10
    size: int = 2048
    """Training and validation images together; the test split has a quarter of it on top."""
    image_size: int = 32
    channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("data", self, "size", "image_size", "channels")
        at_most("data", self, WIDEST, "image_size", "channels")
        size = max(self.size, self.classes) * self.channels * self.image_size**2
        rule = f"makes images of {size:,} bytes, and may make {MOST_BYTES:,}"
        require(size <= MOST_BYTES, "data.size", self.size, rule, "write for example data.size=2048")
        remedy = "write for example data.classes=10"
        require(self.classes >= 2, "data.classes", self.classes, "must be at least 2", remedy)
