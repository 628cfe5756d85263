"""Policies and mixing against torchvision, one image at a time, and against what mixing means."""

import pytest
import torch
from scipy.stats import beta, kstest
from torchvision.transforms import v2

from nas.data import Batches, load_splits
from nas.data.augment.mix import Mix
from nas.data.augment.policies import LEVELS, OPERATIONS, POLICIES, augmented, count_operations, draw
from nas.errors import SettingError
from nas.seeds import generator
from nas.settings import DataSettings, SyntheticSettings, TrainRunSettings, TrainSettings

SIGNED, PLAIN = OPERATIONS[1:10], ("identity", "autocontrast", "equalize")
KEPT = {"crop": 0, "flip": False}


def drawn_by_torchvision(seed: int, rounds: int) -> list[list[int]]:
    """What its transforms draw from torch's generator: the operation, the strength, the direction."""
    torch.manual_seed(seed)
    found = []
    for _ in range(rounds):
        number, level = int(torch.randint(len(OPERATIONS), ())), 0
        if rounds == 1 and OPERATIONS[number] not in PLAIN:
            level = int(torch.randint(LEVELS, ()))
        found.append([number, level, int(OPERATIONS[number] in SIGNED and torch.rand(()) <= 0.5)])
    return found


@pytest.mark.parametrize(("channels", "side"), [(3, 33), (1, 32), (3, 100)])
@pytest.mark.parametrize("name", POLICIES)
def test_a_batch_of_images_equals_torchvisions_single_ones(name, channels, side):
    policy, count = POLICIES[name], 300 if side < 100 else 50
    transform = v2.TrivialAugmentWide() if name == "trivial" else v2.RandAugment()
    images = torch.randint(256, (count, channels, side, side), dtype=torch.uint8, generator=generator(0, "pixels"))
    with torch.random.fork_rng():
        drawn = torch.tensor([drawn_by_torchvision(seed, policy.rounds) for seed in range(count)]).permute(1, 2, 0)
        changed = augmented(images, policy, drawn, count_operations(drawn).tolist())
        for seed, (image, found) in enumerate(zip(images, changed, strict=True)):
            torch.manual_seed(seed)
            assert torch.equal(found, transform(image)), drawn[:, :, seed]
    assert drawn[0, 0].bincount().min() > 0


def test_each_image_draws_for_itself_and_evenly():
    drawn = draw(POLICIES["randaugment"], 10_000, generator(0, "draws")).transpose(0, 1)
    for row, number in zip(drawn.flatten(1), (len(OPERATIONS), LEVELS, 2), strict=True):
        assert (row.long().bincount(minlength=number) / len(row) * number).sub(1).abs().max() < 0.15
    assert len({tuple(image) for image in drawn.flatten(0, 1).T.tolist()}) > 9_900


def synthetic(**how) -> tuple[TrainRunSettings, Batches]:
    settings = TrainRunSettings(
        data=SyntheticSettings(size=60, image_size=15, classes=5, val_fraction=0.3, **{**KEPT, **how}),
        train=TrainSettings(batch_size=7),
    )
    return settings, Batches.of(load_splits(settings.data, 0), settings)


@pytest.mark.parametrize("how", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}], ids=str)
def test_an_image_and_its_label_share_with_the_one_before(how):
    plain, mixed, faded = synthetic()[1], synthetic(**how)[1], 0
    for step in range(40):
        (x, y), (found, shares) = plain.batch(step), mixed.batch(step)
        before, labels = x.roll(1, 0), torch.nn.functional.one_hot(y, 5).float()
        row = next(row for row in range(7) if y[row] != y[row - 1])
        kept = float(shares[row, y[row]])
        torch.testing.assert_close(shares, kept * labels + (1 - kept) * labels.roll(1, 0))
        box = (found != x).flatten(0, 1).any(0)
        if "cutmix" in how and ((found == x) | (found == before)).all():
            assert torch.equal(box, box.any(1, keepdim=True) & box.any(0))
            assert float(box.float().mean()) == pytest.approx(1 - kept, abs=1e-6)
        else:
            faded += 1
            torch.testing.assert_close(found, kept * x + (1 - kept) * before)
    assert faded == 40 if "cutmix" not in how else faded == 0 if "mixup" not in how else 10 < faded < 30


def test_shares_are_of_the_beta_distribution():
    kept = [mix.kept for mix in Mix.drawn(0.4, 0.0, (32, 32), 1000, 0)]
    assert kstest(kept, beta(0.4, 0.4).cdf).pvalue > 0.01
    cut = [1 - mix.kept for mix in Mix.drawn(0.0, 1.0, (32, 32), 1000, 0)]
    assert 0.3 < sum(cut) / 1000 < 0.42  # half, less what the edges cut off


def test_held_out_batches_are_as_without_policies():
    settings, _ = synthetic(augment=["trivial"], mixup=0.2, cutmix=1.0, flip=True)
    plain, _ = synthetic(flip=True)
    splits = load_splits(settings.data, 0)
    for step in range(3):
        (x, y), (expected, labels) = (Batches.of(splits, one, "val").batch(step) for one in (settings, plain))
        assert torch.equal(x, expected)
        assert torch.equal(y, labels)


def test_augmentations_are_a_list_and_wrong_ones_refused():
    assert DataSettings(augment="my:fn").augment == ["my:fn"]
    assert DataSettings(augment="").augment == [] == DataSettings(augment=None).augment
    for wrong, words in {"trivail": "did you mean trivial?", "augmix": "write for"}.items():
        with pytest.raises(SettingError, match=rf"^data.augment={wrong}: must be of trivial, .*{words}"):
            DataSettings(augment=[wrong])
    with pytest.raises(SettingError, match=r"^data.augment=trivial: knows images of 1 or 3 channels, and these have 2"):
        synthetic(augment="trivial", channels=2)
