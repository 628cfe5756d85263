"""How large a data set is, from its settings and the names of its files, before any of it is loaded."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nas.data.archive import Archive
from nas.data.folder import PICTURES, UNREADABLE, _entries, _walk
from nas.data.small import DIGITS_SIZE
from nas.errors import DataError, SettingError
from nas.settings import (
    Cifar100Settings,
    CifarSettings,
    DataSettings,
    DigitsSettings,
    FolderSettings,
    SyntheticSettings,
)

LABEL_BYTES = 8
DIGITS, CIFAR = 1797, (50_000, 10_000)


@dataclass(frozen=True)
class DataSize:
    """Numbers of pictures, and what one of them is. The splits are right to a picture a class.

    Attributes:
        train, val, test: pictures in each split.
        pool: pictures outside the test split, which are loaded before some of them are left out.
        channels, image_size: ``(channels, image_size, image_size)`` is one picture.
        crop: pixels of border around each picture of a stream of batches.
    """

    train: int
    val: int
    test: int
    pool: int
    channels: int
    image_size: int
    classes: int
    crop: int

    @property
    def values(self) -> int:
        """Numbers in one picture."""
        return self.channels * self.image_size**2

    @property
    def splits_bytes(self) -> int:
        """What the three splits take, uint8 pictures and int64 labels."""
        return (self.train + self.val + self.test) * (self.values + LABEL_BYTES)

    @property
    def loading_bytes(self) -> int:
        """What loading takes at its fullest: everything twice, as it was read or drawn and as it is kept."""
        return (2 * (self.pool + self.test)) * (self.values + LABEL_BYTES)

    def stream_bytes(self, pictures: int) -> int:
        """What :class:`nas.data.Batches` keeps for so many pictures: a copy with its border, if there is one."""
        side = self.image_size + 2 * self.crop
        return pictures * self.channels * side**2 if self.crop else 0

    def floats_bytes(self, pictures: int) -> int:
        """What so many pictures take as float32, normalised."""
        return pictures * (4 * self.values + LABEL_BYTES)


def data_size(settings: DataSettings) -> DataSize | None:
    """The size of the data set that ``settings`` describe; None where its folder or zip cannot be looked into.

    Loading says what is wrong with it then.

    Raises:
        SettingError: there is no such data set.
    """
    channels, side = 3, DIGITS_SIZE
    match settings:
        case DigitsSettings():
            test, classes = round(DIGITS * settings.test_fraction), 10
            pool = DIGITS - test
        case CifarSettings():
            (pool, test), classes = CIFAR, 100 if isinstance(settings, Cifar100Settings) else 10
        case FolderSettings():
            if (counted := _count(settings)) is None:
                return None
            (pool, test, classes), side = counted, settings.image_size
        case SyntheticSettings():
            pool, test, classes = settings.size, max(1, settings.size // 4), settings.classes
            channels, side = settings.channels, settings.image_size
        case _:
            remedy = "choose digits, cifar10, cifar100, folder or synthetic"
            raise SettingError("data", settings.name, "is no data set", remedy)
    val = round(settings.val_fraction * pool)
    train = min(settings.train_images or pool, pool - val)
    return DataSize(train, val, test, pool, channels, side, classes, settings.crop)


def _count(settings: FolderSettings) -> tuple[int, int, int] | None:
    root = Path(os.path.abspath(Path(settings.root).expanduser()))
    try:
        if root.is_dir():
            names = _walk(settings, root)
        elif root.is_file():  # to open a pipe would wait for somebody who writes into it
            with closing(Archive(root, settings.root, PICTURES)) as archive:
                names = archive.names
        else:
            return None
    except (DataError, *UNREADABLE):
        return None
    entries = _entries(names)
    classes = len({name for name, _ in entries["train"]})
    return (len(entries["train"]), len(entries["test"]), classes) if classes else None
