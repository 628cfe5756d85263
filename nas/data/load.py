"""From settings to images: the one place that knows every source."""

from __future__ import annotations

from nas.data.cifar import load_cifar
from nas.data.folder import load_folder
from nas.data.images import ImageSet, Splits, statistics, stratified, thinned
from nas.data.small import load_digits, make_synthetic
from nas.errors import SettingError
from nas.seeds import generator
from nas.settings import CifarSettings, DataSettings, DigitsSettings, FolderSettings, SyntheticSettings


def load_splits(settings: DataSettings, seed: int, progress: bool = False) -> Splits:
    """Load a data set and hold a validation split out of its training images.

    Args:
        settings: which data set; its type decides the source.
        seed: fixes which images are held out, with the same share of every class.
        progress: show a bar on stderr while images are downloaded or decoded.

    Raises:
        DataError: the data set cannot be had or read, a class has too few images to be split, or there are fewer
            training images than are to be kept.
        SettingError: there is no such data set.
    """
    pool, test = _pool_and_test(settings, seed, progress)
    train, val = stratified(pool, settings.val_fraction, generator(seed, "split"), "data.val_fraction")
    if settings.train_images:
        train = thinned(train, settings.train_images, generator(seed, "train_images"), "data.train_images")
    mean, std = statistics(train.images)
    return Splits(train, val, test, mean, std)


def _pool_and_test(settings: DataSettings, seed: int, progress: bool) -> tuple[ImageSet, ImageSet]:
    match settings:
        case DigitsSettings():
            return load_digits(settings, seed)
        case CifarSettings():
            return load_cifar(settings, progress)
        case FolderSettings():
            return load_folder(settings, progress)
        case SyntheticSettings():
            return make_synthetic(settings, seed)
    rule = "is no data set; there are digits, cifar10, cifar100, folder and synthetic"
    raise SettingError("data", settings.name, rule, "choose one of them")
