"""From settings to images, or to their size before they are loaded: the one place that knows every source."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nas.data.images import ImageSet, Splits, stratified, thinned
from nas.data.read.array_file import arrays_size, load_arrays
from nas.data.read.cache import kept_statistics
from nas.data.read.cifar import load_cifar
from nas.data.read.folder import list_images, load_folder
from nas.data.read.small import DIGITS, DIGITS_SIZE, load_digits, make_synthetic
from nas.errors import DataError, SettingError
from nas.seeds import generator
from nas.settings import (
    ArraysSettings,
    Cifar100Settings,
    CifarSettings,
    DataSettings,
    DigitsSettings,
    FolderSettings,
    SyntheticSettings,
    TensorSettings,
)

LABEL_BYTES = 8
CIFAR = 60_000


def load_splits(settings: DataSettings, seed: int, progress: bool = False) -> Splits:
    """Load a data set and hold a validation split out of its training images.

    Args:
        settings: which data set; its type decides the source.
        seed: fixes which images are held out, with the same share of every class; unless ``data.split_seed`` does.
        progress: show a bar on stderr while images are downloaded or decoded.

    Raises:
        DataError: the data set cannot be had or read, a class has too few images to be split, or there are fewer
            training images than are to be kept.
        SettingError: there is no such data set.
    """
    seed = seed if settings.split_seed is None else settings.split_seed
    pool, test = _pool_and_test(settings, seed, progress)
    train, val = stratified(pool, settings.val_fraction, generator(seed, "split"), "data.val_fraction")
    if settings.train_images:
        train = thinned(train, settings.train_images, generator(seed, "train_images"), "data.train_images")
    mean, std = kept_statistics(train)
    return Splits(train, val, test, mean, std)


def _pool_and_test(settings: DataSettings, seed: int, progress: bool) -> tuple[ImageSet, ImageSet]:
    match settings:
        case DigitsSettings():
            return load_digits(settings, seed)
        case CifarSettings():
            return load_cifar(settings, progress)
        case FolderSettings():
            return load_folder(settings, progress)
        case ArraysSettings(test_fraction=fraction):
            pool, test = load_arrays(settings)
            return (pool, test) if test else stratified(pool, fraction, generator(seed, "test"), "data.test_fraction")
        case SyntheticSettings():
            return make_synthetic(settings, seed)
        case TensorSettings():
            rule, remedy = "were in the memory of a program", "give them to nas.train_supernet again, with its folder"
            raise DataError("data", settings.name, f"the images {rule}", remedy)
    rule = "is no data set; there are digits, cifar10, cifar100, folder, arrays and synthetic"
    raise SettingError("data", settings.name, rule, "choose one of them")


@dataclass(frozen=True)
class DataSize:
    """What is known of a data set before it is loaded.

    Attributes:
        images: in all splits together.
        input_shape: ``(C, H, W)`` of one image, as a network is shown it.
        classes: their number.
        mapped: the pixels are mapped from a file, so that the kernel drops them when it needs the memory.
    """

    images: int
    input_shape: tuple[int, int, int]
    classes: int
    mapped: bool = False

    @property
    def bytes(self) -> int:
        """What all images and labels hold of the memory, uint8 and int64."""
        return self.images * (LABEL_BYTES + (0 if self.mapped else prod(self.input_shape)))


def expected_size(settings: DataSettings) -> DataSize | None:
    """The size of the data set that ``settings`` describe.

    It is None where its folder or file cannot be read, or where there is no such data set: loading explains that.
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
                return DataSize(len(images), (3, side, side), len({label for label, _ in images}), mapped=True)
        case ArraysSettings():
            return None if (found := arrays_size(settings)) is None else DataSize(*found)
    return None
