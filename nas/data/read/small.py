"""Data sets that need neither network nor disk: handwritten digits and synthetic images."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from nas.data.images import ImageSet, stratified
from nas.errors import require
from nas.seeds import generator
from nas.settings import DigitsSettings, SyntheticSettings

DIGITS, DIGITS_SIZE = 1797, 32
PATTERN, NOISE = 96, 160  # the largest value of each: together they fill 0 to 254, so that nothing is clipped


def load_digits(settings: DigitsSettings, seed: int) -> tuple[ImageSet, ImageSet]:
    """The 1,797 digits of scikit-learn as ``(pool, test)``, uint8 ``(N, 3, 32, 32)``, resized from 8x8.

    They have no test split of their own: ``settings.test_fraction`` of each class is held out, fixed by ``seed``.

    Raises:
        SettingError: ``test_fraction`` is 0.
        DataError: ``test_fraction`` leaves nothing to train on.
    """
    remedy = "write for example data.test_fraction=0.2"
    require(settings.test_fraction > 0, "data.test_fraction", settings.test_fraction, "must be above 0", remedy)
    table = torch.from_numpy(np.loadtxt(_digits_file(), delimiter=",", dtype=np.uint8))
    small = table[:, :-1].reshape(-1, 1, 8, 8).float() * (255 / 16)  # stored as 0 to 16
    grey = interpolate(small, size=(DIGITS_SIZE, DIGITS_SIZE), mode="bilinear").round().to(torch.uint8)
    digits = ImageSet(grey.repeat(1, 3, 1, 1), table[:, -1].long(), tuple(map(str, range(10))))
    return stratified(digits, settings.test_fraction, generator(seed, "split", "test"), "data.test_fraction")


def _digits_file() -> Path:
    """scikit-learn's file of 64 pixels and a label a line; importing scikit-learn for it would take a second."""
    found = find_spec("sklearn")
    assert found is not None, "scikit-learn is one of the package's dependencies"
    assert found.origin is not None, found
    return Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"


def make_synthetic(settings: SyntheticSettings, seed: int) -> tuple[ImageSet, ImageSet]:
    """Noise over one smooth random image a class, as ``(pool, test)``; as many images of each class as can be.

    The pool has ``settings.size`` images, the test split a quarter of it on top, uint8 ``(N, C, H, W)``.
    """
    draws = generator(seed, "synthetic")
    shape = (settings.channels, settings.image_size, settings.image_size)
    coarse = torch.rand(settings.classes, settings.channels, 4, 4, generator=draws) * (PATTERN - 1)
    patterns = interpolate(coarse, size=shape[1:], mode="bilinear").round().to(torch.uint8)
    classes = tuple(f"class_{label}" for label in range(settings.classes))

    def draw(count: int) -> ImageSet:
        labels = torch.arange(count) % settings.classes
        images = torch.randint(NOISE, (count, *shape), dtype=torch.uint8, generator=draws)
        return ImageSet(images.add_(patterns[labels]), labels, classes)

    return draw(settings.size), draw(max(1, settings.size // 4))
