"""Classes of uneven size: the sampler draws them equally often, class weights make up for it in the loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.data import Batches, ImageSet, class_weights
from nas.errors import SettingError
from nas.settings import SyntheticSettings, TrainRunSettings, TrainSettings
from nas.train import Loss

LABELS = torch.tensor([0] * 40 + [2] * 7 + [1] * 3)[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
COUNT = torch.arange(50, dtype=torch.uint8)
IMAGES = ImageSet(COUNT.view(50, 1, 1, 1).expand(50, 1, 2, 2).contiguous(), LABELS, ("a", "b", "c", "none"))
PLAIN = {"mean": torch.zeros(1), "std": torch.ones(1) / 255}


def batches(balance="sampler", seed=0, size=6, **more):
    settings = SyntheticSettings(crop=0, flip=False, balance=balance)
    return Batches(IMAGES, PLAIN["mean"], PLAIN["std"], settings, size, seed, **more)


def drawn(batches, epoch=0):
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    parts = [batches.batch(step) for step in steps]
    return torch.cat([x[:, 0, 0, 0] for x, _ in parts]).round().long(), torch.cat([y for _, y in parts])


def test_a_balanced_epoch_draws_every_class_equally_often():
    for epoch in range(3):
        rows, labels = drawn(batches(), epoch)
        assert labels.bincount().tolist() == [16, 16, 16], "8 steps of 6, as without it"
        assert torch.equal(labels, LABELS[rows])
        times = rows.bincount(minlength=50)
        assert {*times[LABELS == 1].tolist()} == {5, 6}
        assert times[LABELS == 0].max() == 1
    assert sorted(drawn(batches(size=7))[1].bincount().tolist()) == [16, 16, 17]
    assert drawn(batches(stream="val"))[1].bincount()[0] > 30, "images that judge stay as they are"


def test_a_balanced_order_is_a_function_of_seed_and_epoch():
    alone = batches()
    first = drawn(alone)[0]
    parts = [batches(part=(rank, 3)) for rank in range(3)]
    for step in (7, 0, 3, 11):
        shared = torch.cat([part.batch(step)[0] for part in parts])
        assert torch.equal(shared, alone.batch(step)[0])
    assert not torch.equal(drawn(alone, 1)[0], first)
    assert not torch.equal(drawn(batches(seed=1))[0], first)


def test_class_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    assert class_weights(IMAGES).tolist() == pytest.approx([*expected, 0.0])


def test_weighted_loss_of_a_batch_is_that_of_its_parts():
    logits, labels = torch.randn(12, 4, dtype=torch.float64), LABELS[:12]
    loss = Loss.of(TrainSettings(class_weights="balanced", label_smoothing=0.1), IMAGES)

    def of(rows, labels=labels):
        return loss(lambda x, _: x, logits[rows], labels[rows], ())[0]

    whole, weights = of(slice(None)), class_weights(IMAGES).double()
    smooth = 0.9 * F.one_hot(labels, 4) + 0.1 / 4
    assert torch.allclose(whole, -(weights * smooth * logits.log_softmax(1)).sum() / 12)
    assert torch.allclose(whole, (of(slice(0, 6)) + of(slice(6, 12))) / 2), "as several processes add it up"
    assert torch.allclose(whole, of(slice(None), F.one_hot(labels, 4).double())), "labels that are shares of classes"


def test_uneven_classes_are_made_up_for_once():
    with pytest.raises(SettingError, match=r"train.class_weights=balanced: corrects again what data.balance=sampler"):
        TrainRunSettings(train=TrainSettings(class_weights="balanced"), data=SyntheticSettings(balance="sampler"))
    with pytest.raises(SettingError, match=r"train.class_weights=balanced: is for train.loss=cross_entropy"):
        TrainSettings(class_weights="balanced", loss="my:loss")
