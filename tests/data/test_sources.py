import sys
from collections import Counter
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from support.archives import pixels_of
from torch.nn.functional import interpolate

from nas.data import Splits, load_splits
from nas.data.images import statistics
from nas.errors import DataError, SettingError
from nas.settings import CifarSettings, DataSettings, DigitsSettings, SyntheticSettings

SMALL = SyntheticSettings(classes=4, size=120, image_size=8)


def bytes_of(splits: Splits) -> list[list[bytes]]:
    return [[image.numpy().tobytes() for image in pixels_of(part)] for part in (splits.train, splits.val, splits.test)]


def test_splits_are_disjoint_seeded_and_normalised_by_training():
    for settings in (DigitsSettings(), SMALL):
        splits = load_splits(settings, 0)
        parts, again, other = bytes_of(splits), bytes_of(load_splits(settings, 0)), bytes_of(load_splits(settings, 1))
        assert parts == again, settings.name
        assert all(part != changed for part, changed in zip(parts, other, strict=True)), settings.name
        assert sum(map(len, parts)) == len(set().union(*parts)), settings.name
        for own, expected in zip((splits.mean, splits.std), statistics(splits.train), strict=True):
            assert torch.equal(own, expected), settings.name


def test_digits_have_their_documented_shape():
    splits = load_splits(DigitsSettings(), 0)
    assert (splits.channels, splits.image_size, splits.classes) == (3, 32, tuple("0123456789"))
    assert len(splits.train) + len(splits.val) + len(splits.test) == 1797
    assert len(splits.test) == pytest.approx(0.2 * 1797, abs=5)
    images = pixels_of(splits.train)
    assert images.max() == 255
    assert torch.equal(images[:, 0], images[:, 2])
    with pytest.raises(SettingError, match=r"data\.test_fraction=0.*must be above 0"):
        load_splits(DigitsSettings(test_fraction=0), 0)


def test_digits_are_those_of_scikit_learn():
    theirs = load_digits()
    sharp = torch.from_numpy(theirs.images).float()[:, None] * (255 / 16)
    images = interpolate(sharp, size=(32, 32), mode="bilinear").round().to(torch.uint8)
    expected = Counter((x.numpy().tobytes(), int(y)) for x, y in zip(images, theirs.target, strict=True))
    ours = load_splits(DigitsSettings(), 0)
    parts = [
        (x, y) for part in (ours.train, ours.val, ours.test) for x, y in zip(pixels_of(part), part.labels, strict=True)
    ]
    assert Counter((x[:1].numpy().tobytes(), int(y)) for x, y in parts) == expected


def test_synthetic_images_can_be_learned():
    splits = load_splits(SyntheticSettings(classes=10, size=600, image_size=16), 0)
    x, test = (pixels_of(part).float().flatten(1) for part in (splits.train, splits.test))
    centres = torch.stack([x[splits.train.labels == label].mean(0) for label in range(10)])
    assert (torch.cdist(test, centres).argmin(1) == splits.test.labels).float().mean() > 0.95
    within = (x - centres[splits.train.labels]).std()
    assert within > (centres - centres.mean(0)).std()
    assert len(splits.test) == 150


def test_an_unknown_data_set_is_refused():
    with pytest.raises(SettingError, match=r"data=imagenet: .*digits, cifar10, cifar100, folder, arrays and synthetic"):
        load_splits(DataSettings(name="imagenet"), 0)
    with pytest.raises(SettingError, match=r"data\.name=cifar12: must be cifar10 or cifar100"):
        load_splits(CifarSettings(name="cifar12"), 0)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_keeps_labels_puts_channels_first_silently(monkeypatch, capsys, name):
    def fake(root, train, download):
        print("Files already downloaded and verified")
        print("100%", file=sys.stderr)
        data = np.random.default_rng(train).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
        return SimpleNamespace(data=data, targets=[i % 2 for i in range(40)], classes=["cat", "dog"])

    monkeypatch.setattr(f"torchvision.datasets.{name}", fake)
    splits = load_splits(CifarSettings(name=name.lower(), download=False), 0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 40)
    assert capsys.readouterr() == ("", "")
    expected = fake("", train=False, download=False)
    assert torch.equal(splits.test.images[3, :, 5, 6], torch.from_numpy(expected.data[3, 5, 6]))
    assert splits.test.labels.tolist() == expected.targets


def test_absent_cifar_files_name_the_ways_out(monkeypatch, capsys, tmp_path):
    def no_network(*_args, **_kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(DataError, match=r"data\.root=.*no route to host.*data=digits.*data=folder data\.root=PATH"):
        load_splits(CifarSettings(root=str(tmp_path)), 0)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(DataError, match=r"cifar100 is not there.*data\.download=true.*data=digits"):
        load_splits(CifarSettings(name="cifar100", root=str(tmp_path), download=False), 0)
