"""Settings of the data sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas.errors import did_you_mean, require
from nas.settings import rules
from nas.settings.rules import MISSING, Settings

RESIZE = ("crop", "squash", "pad")
WIDEST, MOST_BYTES = 1 << 14, 1 << 36
"""Largest side of an image; most bytes of a synthetic data set. Settings may come from a file of somebody else."""

POLICIES = ("trivial", "randaugment")
"""What ``augment`` may name beside functions."""
AUGMENTATION = ("balance", "crop", "resized_crop", "flip", "cutout", "augment", "mixup", "cutmix")
"""Settings of how training images are drawn and changed."""
PLACE = ("root", "cache", "download")
"""Settings of where the images are and how they get there, as opposed to which they are and how they are split."""


@dataclass
class DataSettings(Settings, group="data"):
    """What all data sets have in common: how they are split and augmented."""

    name: str = MISSING
    val_fraction: float = rules.fraction(0.1)
    """Share of the training images that is held out for validation."""
    split_seed: int | None = rules.seed_number(None)
    """Decides which images are held out, and which are kept; None takes the seed of the run."""
    train_images: int = rules.not_negative(0)
    """Training images to keep, the same share of each class; 0 keeps all."""
    balance: str = rules.choice("none", "sampler")
    """``sampler`` draws training images of every class equally often in an epoch, which has as many steps as before."""
    crop: int = rules.not_negative(4)
    """Pixels of zero padding that a random crop may move into; 0 switches it off."""
    resized_crop: float = rules.fraction(0.0)
    """Smallest share of the area of a random resized crop, which takes the place of ``crop``, with a centre crop
    elsewhere; 0 switches both off."""
    flip: bool = True
    """Mirror half of the images left to right."""
    cutout: int = rules.not_negative(0)
    """Side in pixels of a square that is erased at a random place; 0 switches it off."""
    augment: Any = field(default_factory=list)
    """After crop and flip, in this order: ``trivial``, ``randaugment``, or your own, ``package.module:callable``,
    called with a batch of images and a generator."""
    mixup: float = rules.not_negative(0.0)
    """Fade each image into another one, and its label, by a share from Beta(mixup, mixup); 0 switches it off."""
    cutmix: float = rules.not_negative(0.0)
    """Put a box of another image into each image, of an area from Beta(cutmix, cutmix), and as much of its label; 0
    switches it off. With ``mixup`` each batch draws one of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "must be above 0: subnetworks are compared on held-out images"
        remedy = "write for example data.val_fraction=0.1"
        require(self.val_fraction > 0, "data.val_fraction", self.val_fraction, rule, remedy)
        self.augment = rules.names("data.augment", self.augment or None, "data.augment=[trivial]")
        rule = f"must be of {', '.join(POLICIES)}, or your own as in my_pkg.my:augment"
        for name in self.augment:
            ok, remedy = name in POLICIES or rules.is_import_name(name), "write for example data.augment=[trivial]"
            require(ok, "data.augment", name, rule, did_you_mean(name, POLICIES, remedy))

    @property
    def own_functions(self) -> list[str]:
        """Those of ``augment`` that are your own."""
        return [name for name in self.augment if name not in POLICIES]

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed, so that their labels are shares of the classes."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass
class DigitsSettings(DataSettings):
    """scikit-learn's 1,797 handwritten digits, resized to 32x32x3; needs no network."""

    name: str = "digits"
    val_fraction: float = rules.fraction(0.2)
    test_fraction: float = rules.fraction(0.2)
    flip: bool = False


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
    image_size: int = rules.positive(32, WIDEST)
    """Side in pixels of what the network sees."""
    resize: str = rules.choice(*RESIZE)
    """How an image of another size becomes a square: cut to its middle, scaled on both sides, or with black bars."""
    cache: str = "~/.cache/gated-nas"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, value in (("data.root", self.root), ("data.cache", self.cache)):  # empty would be the current folder
            require(value != "", key, value, "must be a path", f"write for example {key}=PATH")

    @property
    def kept_size(self) -> int:
        """Side in pixels of decoded images: a little more than the network sees where it is shown crops of them."""
        return round(self.image_size * 8 / 7) if self.resized_crop else self.image_size


@dataclass
class TensorSettings(DataSettings):
    """Images that are in the memory of a program, for :func:`nas.train_supernet`; no choice of a command line."""

    name: str = "tensors"
    test_fraction: float = rules.fraction(0.1)
    """Share of the images that is the test split, where there is none of its own."""
    crop: int = rules.not_negative(0)
    flip: bool = False
    digest: str = ""
    """Of images and labels, by which a run that goes on knows them again."""


@dataclass
class ArraysSettings(DataSettings):
    """Images and labels in one ``.npz`` or ``.safetensors`` file."""

    name: str = "arrays"
    root: str = MISSING
    test_fraction: float = rules.fraction(0.1)
    """Share of the images that is the test split, where there is none of its own."""
    digest: str = ""
    """Of the file; a run fills it in, and goes on with that file alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "write for example data.test_fraction=0.1"
        require(self.test_fraction > 0, "data.test_fraction", self.test_fraction, "must be above 0", remedy)


@dataclass
class SyntheticSettings(DataSettings):
    """Noise around one random image a class; for tests and benchmarks."""

    name: str = "synthetic"
    classes: int = rules.at_least(2, 10)
    size: int = rules.positive(2048)
    """Training and validation images together; the test split has a quarter of it on top."""
    image_size: int = rules.positive(32, WIDEST)
    channels: int = rules.positive(3, WIDEST)

    def __post_init__(self) -> None:
        super().__post_init__()
        size = max(self.size, self.classes) * self.channels * self.image_size**2
        rule = f"makes images of {size:,} bytes, and may make {MOST_BYTES:,}"
        require(size <= MOST_BYTES, "data.size", self.size, rule, "write for example data.size=2048")
