"""Sets of images: their statistics, and how they are split and thinned out."""

from dataclasses import replace

import pytest
import torch
from support.archives import pixels_of

from nas.data import load_splits
from nas.data.images import ImageSet, statistics, stratified, thinned
from nas.errors import DataError
from nas.seeds import generator
from nas.settings import SyntheticSettings


def pool_of(images):
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), ("a",))


def test_statistics_equal_the_float64_reference(monkeypatch):
    monkeypatch.setattr("nas.data.images.CHUNK_BYTES", 1000)  # 20 images at a time
    images = torch.randint(256, (4101, 3, 4, 4), dtype=torch.uint8, generator=generator(0, "pixels"))
    images[:, 1] //= 3
    mean, std = statistics(pool_of(images))
    reference = images.double().div(255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, reference.mean(1).float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(std, reference.std(1, correction=0).float(), rtol=1e-7, atol=0)

    images = torch.full((7, 2, 3, 3), 201, dtype=torch.uint8)
    images[0, 1, 0, 0] = 202
    _, std = statistics(pool_of(images))
    assert std[0] == 1, "of a constant channel"
    assert 0 < std[1] < 0.01


def pool(*counts):
    """Images whose values are their numbers, with so many of each class, mixed."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=generator(0, "labels"))]
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet(images, labels, tuple("abc"[: len(counts)]))


def places(part):
    return pixels_of(part).flatten().long()


def test_each_class_holds_out_its_share_or_one():
    whole = pool(40, 20, 2)
    rest, held_out = stratified(whole, 0.1, generator(0, "split"), "key")
    assert torch.bincount(held_out.labels).tolist() == [4, 2, 1]
    assert torch.cat([places(rest), places(held_out)]).sort().values.tolist() == list(range(62))
    for part in (rest, held_out):
        assert torch.equal(whole.labels[places(part)], part.labels)
    with pytest.raises(DataError, match=r"data\.val_fraction=0\.1: .*'b'.* 1 images .*at least 2 images a class"):
        stratified(pool(2, 1), 0.1, generator(0, "split"), "data.val_fraction")
    with pytest.raises(DataError, match=r"class='a': has no image; labels count the classes, 0, 1, 2"):
        stratified(pool(0, 4, 4), 0.1, generator(0, "split"), "data.val_fraction")


def test_every_class_keeps_its_share_of_fewer_images():
    whole = pool(120, 60, 20)
    kept, other = (thinned(whole, 50, generator(seed, "few"), "key") for seed in (0, 1))
    assert torch.bincount(kept.labels).tolist() == [30, 15, 5]
    assert bool((places(kept).diff() > 0).all()), "they keep their order"
    assert torch.equal(whole.labels[places(kept)], kept.labels)
    assert not torch.equal(places(kept), places(other))
    for number in (1, 7, 49, 50):
        assert len(thinned(pool(23, 17, 10), number, generator(0, "few"), "key")) == number


def test_fewer_training_images_leave_the_other_splits():
    settings = SyntheticSettings(size=300, image_size=8, classes=3)
    whole, few = (load_splits(replace(settings, train_images=number), 0) for number in (0, 90))
    assert len(few.train) == 90 < len(whole.train)
    for split in ("val", "test"):
        assert torch.equal(pixels_of(getattr(whole, split)), pixels_of(getattr(few, split)))
    assert not torch.equal(whole.mean, few.mean)  # the statistics are those of the images that are trained on
    with pytest.raises(DataError, match=r"data\.train_images=1000: there are 270 training images; write .*=0"):
        load_splits(replace(settings, train_images=1000), 0)
