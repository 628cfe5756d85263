"""Images that are given as arrays: in a file that anybody may have written, or as a data set of torch."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.archives import pixels_of
from torch.utils.data import Subset
from torchvision.transforms.functional import to_pil_image

from nas.data import expected_size, from_dataset, identified, image_set, load_splits
from nas.data.read.array_file import load_arrays
from nas.errors import DataError
from nas.settings import ArraysSettings

PIXELS = torch.randint(256, (40, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(40) % 2
PLAIN = {"images": PIXELS.numpy(), "labels": LABELS.numpy()}


def saved(path, **arrays):
    np.savez(path, **arrays)
    return ArraysSettings(root=str(path))


def test_every_layout_and_format_gives_the_same_images(tmp_path):
    names = np.array(["cat", "dog"])
    save_file({"images": PIXELS, "labels": LABELS.int()}, tmp_path / "b.safetensors", {"classes": '["cat", "dog"]'})
    np.savez_compressed(tmp_path / "c.npz", images=PIXELS.numpy(), labels=LABELS.numpy().astype(">i2"), classes=names)
    for settings in (
        saved(tmp_path / "a.npz", **PLAIN, classes=names),
        saved(tmp_path / "d.npz", images=PIXELS.permute(0, 2, 3, 1).numpy(), labels=PLAIN["labels"], classes=names),
        saved(tmp_path / "e.npz", images=(PIXELS / 255).numpy(), labels=PLAIN["labels"], classes=names),
        *(ArraysSettings(root=str(tmp_path / name)) for name in ("b.safetensors", "c.npz")),
    ):
        pool, none = load_arrays(settings)
        assert torch.equal(pixels_of(pool), PIXELS), settings.root
        assert torch.equal(pool.labels, LABELS)
        assert (pool.classes, none) == (("cat", "dog"), None)
        splits, size = load_splits(settings, 0), expected_size(settings)
        assert (len(splits.test), size.images, size.input_shape, size.classes) == (4, 40, (3, 6, 6), 2)
        assert size.mapped == settings.root.endswith("b.safetensors")


def test_grey_images_and_a_test_split_stay_what_they_are(tmp_path):
    tested = {"test_images": PIXELS[:9, 0].numpy(), "test_labels": LABELS[:9].numpy()}
    settings = saved(tmp_path / "a.npz", images=PIXELS[:, 0].numpy(), labels=PLAIN["labels"], **tested)
    splits, size = load_splits(settings, 0), expected_size(settings)
    assert torch.equal(pixels_of(splits.test), PIXELS[:9, :1])
    assert (splits.sizes, splits.classes, size.images, size.input_shape) == ((1, 6, 2), ("0", "1"), 49, (1, 6, 6))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": None}, r"a\.npz: labels=none: must be in the file, which has images, extra; save it"),
        ({"images": PIXELS[:, :, :4].numpy()}, r"images=\(40, 3, 4, 6\): must be \(N, H, W\), .* and H = W"),
        ({"images": np.zeros((40, 3, 3, 3), np.uint8)}, r"could be \(N, C, H, W\) or \(N, H, W, C\)"),
        ({"images": np.zeros((40, 2, 6, 6), np.uint8)}, "must have 1 or 3 channels"),
        ({"images": PIXELS.int().numpy()}, r"images=torch\.int32: must be uint8"),
        ({"images": PIXELS.double().numpy()}, "floats must be from 0 to 1; divide by 255"),
        ({"labels": LABELS[:-1].numpy()}, r"labels=torch\.int64 \(39,\): must be 40 ints"),
        ({"labels": LABELS.numpy() - 1}, "labels=-1 to 0: must count the classes"),
        ({"labels": LABELS.numpy() * 10**12}, "labels=0 to 1000000000000: must count the classes"),
        ({"labels": LABELS.numpy() * 0}, "there is only one class"),
        ({"classes": np.array(["cat"])}, "labels=0 to 1: must be from 0 to 0"),
        ({"classes": np.array(["cat", "cat"])}, "a list of different texts"),
        ({"labels": np.array([None] * 40)}, "labels has the type Python objects, which could run code"),
        ({"test_images": PLAIN["images"]}, "test_labels=none: must be in the file"),
        (
            {"test_images": PLAIN["images"], "test_labels": LABELS.numpy() * 2},
            "test_labels=0 to 2: must be from",
        ),
        ({"test_images": PIXELS[:, :1].numpy(), "test_labels": PLAIN["labels"]}, r"has test images of \(1, 6, 6\)"),
    ],
)
def test_wrong_arrays_are_one_line(tmp_path, change, said):
    arrays = {name: array for name, array in {**PLAIN, "extra": LABELS, **change}.items() if array is not None}
    settings = saved(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said) as caught:
        load_splits(settings, 0)
    assert str(caught.value).startswith(f"data.root={tmp_path}")
    assert len(str(caught.value).splitlines()) == 1
    expected_size(settings)  # looks at it too, and leaves the message to loading


def test_no_file_claims_more_than_its_bytes(tmp_path):
    def written(method, shape, content):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as file:
            labels = ("labels", "<i8", (40,), LABELS.numpy())
            for name, dtype, size, data in (("images", "|u1", shape, content), labels):
                with file.open(f"{name}.npy", "w") as entry:
                    header = {"descr": dtype, "fortran_order": False, "shape": size}
                    np.lib.format.write_array_header_1_0(entry, header)
                    entry.write(bytes(data))
        return ArraysSettings(root=str(tmp_path / "a.npz"))

    for method, shape, content, said in (
        (zipfile.ZIP_STORED, (10**9, 3, 32, 32), PIXELS.numpy(), "claims to be uint8"),
        (zipfile.ZIP_STORED, (-40, -3, 6, 6), PIXELS.numpy(), "claims to be uint8"),
        (zipfile.ZIP_DEFLATED, (40, 3, 300, 300), bytes(40 * 3 * 300 * 300), "bytes become 10,8"),
    ):
        settings = written(method, shape, content)
        assert expected_size(settings) is None
        with pytest.raises(DataError, match=said):
            load_arrays(settings)
    whole = written(zipfile.ZIP_STORED, (40, 3, 6, 6), PIXELS.numpy())
    assert len(load_arrays(whole)[0]) == 40
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data.replace(PIXELS.numpy().tobytes()[:9], b"x" * 9))
    with pytest.raises(DataError, match=r"cannot be read \(Bad CRC-32"):
        load_arrays(whole)
    (tmp_path / "a.safetensors").write_bytes(data)
    for root, rule in (("a.safetensors", "cannot be read"), ("a.csv", "is no file"), (".", "is no file")):
        with pytest.raises(DataError, match=rule):
            load_arrays(ArraysSettings(root=str(tmp_path / root)))


def test_a_file_that_changed_is_another_one(tmp_path):
    settings = identified(saved(tmp_path / "a.npz", **PLAIN))
    assert load_splits(settings, 0).sizes == (3, 6, 2)
    saved(tmp_path / "a.npz", images=255 - PLAIN["images"], labels=PLAIN["labels"])
    with pytest.raises(DataError, match=f"is another file than the one with data.digest={settings.digest}"):
        load_splits(settings, 0)
    assert identified(replace(settings, digest="")) != settings


class Photos:
    """A data set as torchvision has them: images of Pillow, ``classes``, transforms."""

    classes = ("cat", "dog")

    def __init__(self, form=to_pil_image):
        self.form = form

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, place):  # no IndexError: who goes past the end never comes back
        return self.form(PIXELS[place % 40]), LABELS[place % 40]


def test_a_torch_data_set_is_read_once():
    for dataset in (Photos(), Photos(lambda image: image / 255), Subset(Photos(), range(40))):
        found = from_dataset(dataset)
        assert torch.equal(pixels_of(found), PIXELS)
        assert (found.labels.tolist(), found.classes) == (LABELS.tolist(), ("cat", "dog"))
    assert image_set(found) is found
    grey = image_set(Photos(lambda image: to_pil_image(image).convert("L")))
    assert grey.shape == (1, 6, 6)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ([], "dataset=list: has no images"),
        ([PIXELS[0]], r"dataset\[0\]=Tensor: must be a pair"),
        ([(PIXELS[0], "cat")], r"dataset\[0\]=cat: its label must be an int"),
        ([(PIXELS[0], 0), (PIXELS[1, :, :5, :5], 1)], r"dataset\[1\]=\(3, 5, 5\): must be as the first, \(3, 6, 6\)"),
        ([(PIXELS[0] / 255 - 0.5, 0)], r"dataset\[0\]=-0\..*leave Normalize out"),
        ([("cat.png", 0)], "str: must be an image of Pillow, or a tensor"),
        ([(to_pil_image(PIXELS[0]).convert("P"), 0)], r"mode P: must be of mode L or RGB.*convert\('RGB'\)"),
    ],
)
def test_what_is_no_data_set_is_one_line(dataset, said):
    with pytest.raises(DataError, match=said):
        from_dataset(dataset)
