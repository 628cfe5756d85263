"""``data.train_images``: a smaller training split, fairly drawn."""

from dataclasses import replace

import pytest
import torch

from nas.data import ImageSet, load_splits
from nas.data.images import thinned
from nas.errors import DataError
from nas.settings import SyntheticSettings

SETTINGS = SyntheticSettings(size=300, image_size=8, classes=3)


def pool(*counts):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.arange(len(labels)).view(-1, 1, 1, 1).to(torch.uint8)
    return ImageSet(images, labels, tuple(map(str, range(len(counts)))))


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_class_keeps_the_same_share():
    kept = thinned(pool(120, 60, 20), 50, draws(), "data.train_images")
    assert torch.bincount(kept.labels).tolist() == [30, 15, 5]


def test_exactly_as_many_are_kept_as_were_asked_for():
    for number in (1, 7, 49, 50):
        assert len(thinned(pool(23, 17, 10), number, draws(), "data.train_images")) == number


def test_the_images_keep_their_order_and_labels():
    whole = pool(30, 30)
    kept = thinned(whole, 20, draws(), "data.train_images")
    places = kept.images.flatten().long()
    assert bool((places.diff() > 0).all())
    assert torch.equal(whole.labels[places], kept.labels)


def test_another_seed_keeps_others():
    first, second = (thinned(pool(30, 30), 20, draws(seed), "data.train_images") for seed in (0, 1))
    assert not torch.equal(first.images, second.images)


def test_the_other_splits_stay_as_they_were():
    whole, few = (load_splits(replace(SETTINGS, train_images=number), 0) for number in (0, 90))
    assert len(few.train) == 90 < len(whole.train)
    for split in ("val", "test"):
        assert torch.equal(getattr(whole, split).images, getattr(few, split).images)
    assert not torch.equal(whole.mean, few.mean)  # the statistics are those of the images that are trained on


def test_more_than_there_are_is_refused():
    with pytest.raises(DataError, match=r"data\.train_images=1000: there are 270 training images; write .*=0"):
        load_splits(replace(SETTINGS, train_images=1000), 0)
