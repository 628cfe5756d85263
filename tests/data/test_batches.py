import re

import pytest
import torch
from support.plugins import augment as mix
from support.runs import MIXED
from torch.utils._pytree import tree_leaves

from nas.data import Batches, ImageSet, Ordered, unnormalise
from nas.data.augment.crops import Frame
from nas.eager import EagerDispatchMode
from nas.errors import DataError, SettingError
from nas.seeds import derive, generator
from nas.settings import DataSettings

COUNT, SIDE, BATCH, SEED = 26, 9, 4, 7
MEAN, STD = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.3, 1.0])
PLAIN = {"crop": 0, "flip": False, "cutout": 0}


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.randint(256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator(0, "pixels"))
    pixels[:, 0, 0, 0] = torch.arange(COUNT)  # tells the images apart
    return ImageSet(pixels, torch.arange(COUNT) % 5, tuple("abcde"))


def batches(images: ImageSet, seed: int = SEED, batch_size: int = BATCH, stream: str = "train", **augment) -> Batches:
    settings = DataSettings(name="test", **{**PLAIN, **augment})
    return Batches(images, MEAN, STD, settings, batch_size, seed, stream=stream)


def slow_batch(images: ImageSet, settings: DataSettings, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One image at a time, as one would say it; the draws are those that Batches documents."""
    epoch, place = divmod(step, COUNT // BATCH)

    def here(drawn: torch.Tensor) -> list[int]:
        return drawn[place * BATCH : (place + 1) * BATCH].tolist()

    def draw(kind: str, high: int, times: int = 1) -> list[list[int]]:
        draws = generator(SEED, "train", kind, epoch)
        return [here(torch.randint(high, (COUNT // BATCH * BATCH,), generator=draws)) for _ in range(times)]

    index = here(torch.randperm(COUNT, generator=generator(SEED, "train", "shuffle", epoch)))
    p, s, none = settings.crop, settings.cutout, [0] * BATCH
    down, right = draw("crop", 2 * p + 1, 2) if p else (none, none)
    (mirrored,) = draw("flip", 2) if settings.flip else (none,)
    middle_y, middle_x = draw("cutout", SIDE, 2) if s else (none, none)
    result = torch.empty(BATCH, 3, SIDE, SIDE)
    for row in range(BATCH):
        bordered = torch.zeros(3, SIDE + 2 * p, SIDE + 2 * p, dtype=torch.uint8)
        bordered[:, p : p + SIDE, p : p + SIDE] = images.images[index[row]]
        window = bordered[:, down[row] : down[row] + SIDE, right[row] : right[row] + SIDE]
        if mirrored[row]:
            window = window[:, :, list(range(SIDE - 1, -1, -1))]
        for channel in range(3):
            scale = 1 / (STD[channel] * 255)
            result[row, channel] = (window[channel].float() - MEAN[channel] * 255) * scale
        for y in range(SIDE if s else 0):
            for x in range(SIDE):
                if 0 <= y - (middle_y[row] - s // 2) < s and 0 <= x - (middle_x[row] - s // 2) < s:
                    result[row, :, y, x] = 0
    return result, images.labels[index]


AUGMENT = [{}, {"crop": 3}, {"flip": True}, {"cutout": 4}, {"cutout": 3}, {"crop": 2, "flip": True, "cutout": 3}]


def test_augmented_batches_equal_the_slow_reference(images):
    for augment in AUGMENT:
        fast = batches(images, **augment)
        for step in range(fast.steps_per_epoch + 1):
            expected, labels = slow_batch(images, fast.settings, step)
            x, y = fast.batch(step)
            assert torch.equal(x, expected), (augment, step)
            assert torch.equal(y, labels), (augment, step)


def test_batch_is_a_function_of_the_step(images):
    forward, backward = (batches(images, crop=2, flip=True, cutout=3, **MIXED) for _ in range(2))
    steps, before = range(3 * forward.steps_per_epoch), torch.get_rng_state()
    first = [forward.batch(step) for step in steps]
    again = [backward.batch(step) for step in reversed(steps)][::-1]
    for (x, y), (x_again, y_again) in zip(first, again, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_show_every_image_once_except_partial_batches(images):
    whole, plain = batches(images, batch_size=13), batches(images)
    shown = unnormalise_all(torch.cat([whole.batch(step)[0] for step in range(whole.steps_per_epoch)]))
    assert sorted(shown[:, 0, 0, 0].tolist()) == list(range(COUNT))
    assert plain.steps_per_epoch == COUNT // BATCH
    epochs = torch.stack([plain.batch(step)[0] for step in range(2 * plain.steps_per_epoch)]).chunk(2)
    for epoch in epochs:
        assert len(set(unnormalise_all(epoch.flatten(0, 1))[:, 0, 0, 0].tolist())) == COUNT // BATCH * BATCH
    assert not torch.equal(*epochs)


class Watched(EagerDispatchMode):
    """Notes what is called, and refuses what has tensors of two devices."""

    def __init__(self):
        super().__init__()
        self.called = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        devices = {value.device.type for value in tree_leaves((args, kwargs, found)) if isinstance(value, torch.Tensor)}
        assert len(devices) <= 1, (function, devices)
        self.called.add(function.__name__)
        return found


@pytest.mark.parametrize("how", [{"crop": 2}, {"resized_crop": 0.35}], ids=["crop", "resized"])
def test_a_step_draws_nothing_and_copies_between_no_devices(images, how):
    settings = DataSettings(name="test", **{**PLAIN, "flip": True, "cutout": 3, **MIXED, **how})
    made = Batches(images, MEAN, STD, settings, BATCH, SEED, "meta", channels_last=True)
    made.batch(0)  # draws its epoch
    with Watched() as watched:
        for step in range(1, made.steps_per_epoch):
            assert made.batch(step)[0].is_meta
    assert "index_select.default" in watched.called
    assert not [name for name in watched.called if re.search("rand|_local_scalar|nonzero", name)]
    with Watched() as watched:
        Batches(images, MEAN, STD, settings, BATCH, SEED).batch(0)
    assert {"randperm.generator", "randint.generator"} <= watched.called


def test_another_seed_or_stream_draws_other_numbers(images):
    for other in ({"seed": SEED + 1}, {"stream": "val"}):
        assert not torch.equal(batches(images).batch(0)[0], batches(images, **other).batch(0)[0]), other


def test_the_last_images_last_window_stays_inside_memory(images):
    pixels = images.take(torch.arange(COUNT))
    for border in range(SIDE):
        frame, far = Frame(COUNT, images.shape, border, torch.device("cpu")), torch.full((COUNT,), 2 * border)
        found = frame(pixels, 0, frame.corners(far, far, torch.zeros_like(far))[1])
        left = SIDE - border
        assert torch.equal(found[:, :, :left, :left], pixels[:, :, border:, border:])
        assert not found[:, :, left:].any()
        assert not found[:, :, :, left:].any()


def test_ordered_gives_every_image_once_in_order(images):
    parts = list(Ordered(images, MEAN, STD, 10))
    assert [len(y) for _, y in parts] == [10, 10, 6]
    x, y = (torch.cat(part) for part in zip(*parts, strict=True))
    assert torch.equal(unnormalise_all(x), images.images)
    assert torch.equal(y, images.labels)
    torch.testing.assert_close(x, (images.images / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))


def test_a_large_sets_batches_are_made_anew(images, monkeypatch):
    small = Ordered(images, MEAN, STD, 10)
    monkeypatch.setattr("nas.data.ordered.KEPT_BYTES", 4 * COUNT * 3 * SIDE**2 - 1)
    large = Ordered(images, MEAN, STD, 10)
    for found, kept in (small, True), (large, False):
        assert (found[1][0] is found[1][0]) == kept
        assert torch.equal(found[-1][0], small[2][0])
        assert [len(y) for _, y in found[1:]] == [10, 6]


def test_channels_last_changes_the_layout_and_no_value(images):
    settings = DataSettings(name="test", crop=2, flip=True, cutout=3)
    pair = [Batches(images, MEAN, STD, settings, BATCH, SEED, channels_last=last).batch(3)[0] for last in (False, True)]
    assert pair[0].is_contiguous()
    assert pair[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(*pair)
    assert Ordered(images, MEAN, STD, 8, channels_last=True)[0][0].is_contiguous(memory_format=torch.channels_last)


def test_what_does_not_fit_the_images_is_refused(images):
    with pytest.raises(DataError, match=r"train\.batch_size=27: the val split has only 26 images; .*batch_size=26"):
        batches(images, batch_size=27, stream="val")
    for name in ("crop", "cutout"):
        rule = rf"data\.{name}=9: must be smaller than an image, 9x9; 0 switches it off"
        with pytest.raises(SettingError, match=rule):
            batches(images, **{name: SIDE})


def unnormalise_all(x: torch.Tensor) -> torch.Tensor:
    return (unnormalise(x, MEAN, STD) * 255).round().to(torch.uint8)


def test_an_own_augmentation_follows_the_generator_of_its_step(images):
    settings = {"crop": 2, "flip": True, "cutout": 3, "augment": "support.plugins:augment"}
    own, plain = batches(images, **settings), batches(images, **{**settings, "augment": "", "cutout": 0})
    before = torch.get_rng_state()
    found = [own.batch(step) for step in (3, 4, 3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0][0], found[2][0])
    with torch.random.fork_rng(devices=[]):  # between flip and normalisation, on the [0, 1] scale
        draws = torch.default_generator.manual_seed(derive(SEED, "train", "own augment", 3))
        x = plain.batch(3)[0]
        values = mix(x * STD.view(-1, 1, 1) + MEAN.view(-1, 1, 1), draws)
    expected = (values - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1)
    kept = found[0][0] != 0  # the cutout comes after it
    assert 0.5 < kept.float().mean() < 1
    torch.testing.assert_close(found[0][0][kept], expected[kept], rtol=1e-4, atol=1e-5)


def test_an_own_augmentation_must_give_such_images(images):
    for name, words in {"resize": r"torch.float32 \(4, 3, 9, 4\)", "burn": "values that are not finite"}.items():
        with pytest.raises(SettingError, match=rf"^data.augment=.*{name}: gave {words}.*; return images like"):
            batches(images, augment=f"support.plugins:{name}").batch(0)
    with pytest.raises(SettingError, match="cannot be called with images, generator"):
        batches(images, augment="support.plugins:schedule")
