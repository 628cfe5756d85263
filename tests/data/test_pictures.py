"""Images of other sizes and modes, and crops of them: each against a plain reference."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.archives import FILES, SIDE, as_folder, encoded, of

from nas.data import Batches, Ordered, expected_size, load_splits, unnormalise
from nas.data.augment.crops import draw_boxes, resized_crops
from nas.data.read.folder import load_folder
from nas.data.read.untrusted import decode_image
from nas.settings import SyntheticSettings
from nas.settings.data import RESIZE

NOISE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
COLOUR, GREY, ALPHA = NOISE[..., :3], NOISE[..., 0], NOISE[..., 3:]
HALF = GREY // 128 * 255


def file_of(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **more)
    return buffer.getvalue()


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint(255 + alpha / 255 * (colour.astype(float) - 255))


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2)


PALETTE = np.arange(768).reshape(256, 3) * 7 % 256
INDEXED = Image.fromarray(GREY, "L")
INDEXED.putpalette(PALETTE.astype(np.uint8).tobytes())
INKS = Image.fromarray(np.concatenate([COLOUR, np.zeros_like(ALPHA)], 2), "CMYK")
MODES = {
    "RGB": (file_of(Image.fromarray(COLOUR)), COLOUR),
    "L": (file_of(Image.fromarray(GREY)), grey(GREY)),
    "1": (file_of(Image.fromarray(HALF).convert("1")), grey(HALF)),
    "CMYK": (file_of(INKS, "TIFF"), 255 - COLOUR),
    "P": (file_of(INDEXED), PALETTE[GREY]),
    "RGBA": (file_of(Image.fromarray(NOISE)), on_white(COLOUR, ALPHA)),
    "LA": (file_of(Image.fromarray(np.stack([GREY, ALPHA[..., 0]], 2), "LA")), on_white(grey(GREY), ALPHA)),
    "P, one is clear": (
        file_of(INDEXED, transparency=int(GREY[0, 0])),
        np.where((GREY[0, 0] == GREY)[..., None], 255, PALETTE[GREY]),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_what_viewers_show(mode):
    data, expected = MODES[mode]
    found, own = decode_image(data, SIDE, "crop")
    assert own == (SIDE, SIDE)
    assert np.abs(found - expected.astype(float)).max() <= 1


def test_an_orientation_is_undone_and_a_damaged_one_ignored():
    upright = COLOUR[:, : SIDE - 2]
    lying = [upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1]]
    lying += [one.swapaxes(0, 1) for one in lying]
    for orientation, pixels in enumerate(lying, 1):
        (exif := Image.Exif())[0x0112] = orientation
        found, own = decode_image(file_of(Image.fromarray(pixels.copy()), exif=exif), SIDE, "pad")
        assert own == (SIDE - 2, SIDE)[:: 1 if orientation < 5 else -1]
        assert np.array_equal(found[:, 1:-1], upright), orientation
    damaged = file_of(Image.fromarray(COLOUR), exif=b"Exif\0\0MM no such thing")
    assert np.array_equal(decode_image(damaged, SIDE, "crop")[0], COLOUR)


def test_a_picture_is_cut_squashed_or_padded():
    wide = Image.fromarray(np.repeat(np.repeat(COLOUR[:4], 2, 0), 2, 1))  # 16 x 8, to 8 x 8
    found = {how: decode_image(file_of(wide), SIDE, how)[0] for how in RESIZE}
    assert np.array_equal(found["crop"], np.array(wide)[:, 4:12])
    assert np.array_equal(found["squash"], np.array(wide.resize((8, 8))))
    assert np.array_equal(found["pad"][2:6], np.array(wide.resize((8, 4))))
    assert not found["pad"][[0, 1, 6, 7]].any()
    assert decode_image(file_of(Image.new("RGB", (900, 1), "white")), SIDE, "pad")[0].max() == 255


def test_a_large_jpeg_is_all_but_what_it_is_decoded_whole():
    photo = Image.fromarray(COLOUR[:4, :4]).resize((300, 200), Image.Resampling.BICUBIC)
    found, own = decode_image(data := file_of(photo, "JPEG", quality=95), SIDE, "squash")
    assert own == (300, 200)
    assert np.abs(found - np.array(Image.open(io.BytesIO(data)).resize((SIDE, SIDE))).astype(float)).mean() < 2


def test_each_way_to_resize_has_a_cache(tmp_path):
    root = as_folder(tmp_path / "pets", FILES | {"train/a/9.png": encoded(3, width=30, height=20)})
    found = [load_folder(of(root, resize=how))[0].images[4] for how in ("crop", "squash", "pad", "crop")]
    assert torch.equal(found[0], found[3])
    assert not any(torch.equal(found[0], other) for other in found[1:3])


def slow_crop(image: torch.Tensor, box: list[float], size: int) -> torch.Tensor:
    """Of ``(H, W)``, between pixels linearly; beyond the middle of the outermost pixels, these."""
    height, width = image.shape
    found = torch.empty(size, size)
    for row in range(size):
        for column in range(size):
            y = min(max((box[0] + box[2] * (row + 0.5) / size) * height - 0.5, 0), height - 1)
            x = min(max((box[1] + box[3] * (column + 0.5) / size) * width - 0.5, 0), width - 1)
            up, left = min(int(y), height - 2), min(int(x), width - 2)
            down, right = y - up, x - left
            (a, b), (c, d) = image[up : up + 2, left : left + 2].tolist()
            found[row, column] = (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)
    return found


def test_resized_crops_equal_the_slow_reference(monkeypatch):
    monkeypatch.setattr("nas.data.augment.crops.CHUNK", 2 * 2 * 9 * 9)  # two images at a time, and one that is left
    images = torch.randint(256, (5, 2, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = draw_boxes(5, 0.2, torch.Generator().manual_seed(1))
    found = resized_crops(images, boxes, 7)
    for image, box, crop in zip(images, boxes.T.tolist(), found, strict=True):
        expected = torch.stack([slow_crop(channel, box, 7) for channel in image])
        assert (crop - expected).abs().max() <= 0.51
    assert torch.equal(resized_crops(images, torch.tensor([[0.0], [0], [1], [1]]).expand(4, 5), 9), images)


def test_boxes_have_the_area_and_shape_of_the_paper():
    top, left, height, width = draw_boxes(20_000, 0.35, torch.Generator().manual_seed(0))
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6
    area, ratio = height * width, (width / height).log()
    shares = torch.quantile(area, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(shares, torch.tensor([0.35, 0.5125, 0.675, 0.8375, 1.0]), atol=0.01, rtol=0)
    assert 0.99 < ratio.abs().max() / np.log(4 / 3) <= 1 + 1e-6
    assert abs(ratio[area < 0.7].mean()) < 0.01


def test_only_training_sees_beyond_the_centre_crop(tmp_path):
    files = {name: encoded(seed, width=16, height=16) for seed, name in enumerate(FILES)}
    root, how = as_folder(tmp_path / "pets", files), {"image_size": 14, "crop": 0, "val_fraction": 0.25}
    splits = load_splits(of(root, **how, resized_crop=0.9), 0)
    assert splits.input_shape == (3, 14, 14)
    for images in (splits.test, splits.val, splits.calibration(0, 4)):
        x = torch.cat([x for x, _ in Ordered(images, splits.mean, splits.std, 3)])
        middle = images.take(torch.arange(len(images)), whole=True)[:, :, 1:15, 1:15]
        assert torch.equal(unnormalise(x, splits.mean, splits.std).mul(255).round().byte(), middle)
    train = Batches(splits.train, splits.mean, splits.std, of(root, **how, resized_crop=0.9, flip=False), 6, 0)
    assert train.batch(0)[0].shape == (6, 3, 14, 14)
    assert expected_size(of(root, **how, resized_crop=0.9)).input_shape == splits.input_shape


def test_processes_share_a_batch_of_resized_crops():
    settings = SyntheticSettings(size=64, image_size=12, resized_crop=0.35)
    splits = load_splits(settings, 0)
    one, *two = (
        Batches(splits.train, splits.mean, splits.std, settings, 8, 0, part=part) for part in ((0, 1), (0, 2), (1, 2))
    )
    for step in (5, 0, 5):
        x, _ = one.batch(step)
        assert torch.equal(x, torch.cat([half.batch(step)[0] for half in two]))
        assert x.std() > 0.5
    assert not torch.equal(x, Batches(splits.train, splits.mean, splits.std, settings, 8, 1).batch(5)[0])


def test_half_of_the_resized_crops_are_mirrored():
    settings = [SyntheticSettings(size=64, image_size=12, resized_crop=0.35, flip=flip) for flip in (False, True)]
    splits = load_splits(settings[0], 0)
    zero, one = torch.zeros(3), torch.full((3,), 1 / 255)  # leaves pixels as they are
    plain, found = (
        torch.cat([Batches(splits.train, zero, one, how, 8, 0).batch(step)[0] for step in range(7)]) for how in settings
    )
    same, mirrored = ((found - image).abs().amax((1, 2, 3)) <= 1.01 for image in (plain, plain.flip(-1)))
    assert (same ^ mirrored).all()
    assert 14 < mirrored.sum() < 42
