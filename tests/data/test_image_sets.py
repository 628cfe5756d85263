import pytest
import torch

from nas.data.images import CHUNK, ImageSet, statistics, stratified
from nas.errors import DataError
from nas.seeds import generator


def test_statistics_equal_the_float64_reference():
    images = torch.randint(256, (CHUNK + 5, 3, 4, 4), dtype=torch.uint8, generator=generator(0, "pixels"))
    images[:, 1] //= 3
    mean, std = statistics(images)
    reference = images.double().div(255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, reference.mean(1).float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(std, reference.std(1, correction=0).float(), rtol=1e-7, atol=0)


def test_a_constant_channel_has_deviation_one():
    images = torch.full((7, 2, 3, 3), 201, dtype=torch.uint8)
    images[0, 1, 0, 0] = 202
    _, std = statistics(images)
    assert std[0] == 1
    assert 0 < std[1] < 0.01


def test_each_class_gives_its_share_and_at_least_one():
    labels = torch.tensor([0] * 40 + [1] * 20 + [2] * 2)
    pool = ImageSet(torch.arange(62, dtype=torch.uint8).view(62, 1, 1, 1), labels, ("a", "b", "c"))
    rest, held_out = stratified(pool, 0.1, generator(0, "split"), "key")
    assert torch.bincount(held_out.labels).tolist() == [4, 2, 1]
    assert torch.bincount(rest.labels).tolist() == [36, 18, 1]
    both = torch.cat([rest.images, held_out.images]).flatten()
    assert both.sort().values.tolist() == list(range(62))
    assert torch.equal(labels[rest.images.flatten().long()], rest.labels)


def test_a_class_too_small_to_be_split_is_named():
    pool = ImageSet(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1]), ("cat", "dog"))
    with pytest.raises(DataError, match=r"data\.val_fraction=0\.1: .*'dog'.* 1 images .*at least 2 images a class"):
        stratified(pool, 0.1, generator(0, "split"), "data.val_fraction")
