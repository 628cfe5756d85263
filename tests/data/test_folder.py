"""Class folders of images and zips of them: what is read, what is cached, what is refused."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.archives import FILES, SIDE, as_folder, as_zip, assert_same_sets, encoded, of, pixels_of, refused

from nas.data import load_splits
from nas.data.read.folder import load_folder


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_images_and_labels_are_those_of_the_files(tmp_path, capsys):
    pool, test = load_folder(of(as_folder(tmp_path / "pets")), progress=True)
    assert pool.classes == test.classes == ("a", "b")
    assert pool.labels.tolist() == [0] * 4 + [1] * 4
    assert torch.equal(pool.images[2], pixels(Image.open(io.BytesIO(FILES["train/a/2.png"]))))
    assert len(test) == 4
    assert capsys.readouterr().out == "", "progress is shown on stderr"


def test_a_zip_equals_its_folder_whatever_surrounds_it(tmp_path):
    expected = load_folder(of(as_folder(tmp_path / "pets")))
    reverse = dict(reversed(FILES.items()))
    topped = {f"./pets/{name}": data for name, data in FILES.items()}
    others = FILES | dict.fromkeys(["README.md", "train/a/notes", "__MACOSX/train/a/._0.png", "train/.x/1.png"], b"?")
    for number, files in enumerate((reverse, topped, others)):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            assert_same_sets(load_folder(of(as_zip(tmp_path / f"{number}{method}.zip", files, method))), expected)
    assert_same_sets(load_folder(of(as_folder(tmp_path / "others", others))), expected)


def test_scaling_is_said_with_both_sizes(tmp_path, capsys):
    large = {name: encoded(1, width=96, height=72) for name in FILES if "train/a" in name}
    source = of(as_folder(tmp_path / "pets", FILES | large), cache=str(tmp_path / "cache"))
    for _ in ("decoded", "from the cache"):
        load_folder(source, progress=True)
        said = capsys.readouterr().err
        assert "4 of 12 images, 96x72, are scaled to 8x8 by data.resize=crop; data.image_size=72" in said
    photo = FILES | {"train/a/0.png": encoded(1, width=400, height=300)}
    load_folder(of(as_folder(tmp_path / "photos", photo)), progress=True)
    assert "; data.image_size=224 is" in capsys.readouterr().err
    load_folder(of(as_folder(tmp_path / "small")), progress=True)
    assert "scaled" not in capsys.readouterr().err


def test_files_that_are_left_out_are_said(tmp_path, capsys):
    others = dict.fromkeys(["train/a/1.heic", "train/b/notes", "train/.x", "test/a/2.HEIC"], b"?")
    load_folder(of(as_folder(tmp_path / "pets", FILES | others)), progress=True)
    assert "3 files, such as test/a/2.HEIC, are left out: .bmp, .gif, " in capsys.readouterr().err


def test_an_unchanged_source_is_not_decoded_again(tmp_path, monkeypatch):
    for make in (as_folder, as_zip):
        source = of(make(tmp_path / make.__name__), cache=str(tmp_path / f"cache of {make.__name__}"))
        decoded = load_folder(source)
        with monkeypatch.context() as patch:
            patch.setattr("nas.data.read.decode.decode_image", lambda *_: pytest.fail("decoded again"))
            assert_same_sets(load_folder(source), decoded)
        assert sorted(path.suffix for path in Path(source.cache).iterdir()) == [".jsonl", ".lock", ".u8"]


def test_a_changed_source_or_size_is_decoded_again(tmp_path):
    for make in (as_folder, as_zip):
        root = make(tmp_path / make.__name__)
        before, _ = load_folder(of(root))
        make(root, FILES | {"train/a/2.png": encoded(77)})
        after, _ = load_folder(of(root))
        assert not torch.equal(before.images, after.images), make
        assert load_folder(of(root, image_size=SIDE + 1))[0].images.shape[-1] == SIDE + 1


def test_sources_are_kept_apart_by_place_and_time(tmp_path, monkeypatch):
    found = []
    for place, value, time in ("a", 1, 1), ("b", 2, 1), ("b", 3, 0):  # the last after the clock was set back
        blank = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (value, value, value)).save(blank, "BMP")
        (tmp_path / place).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        os.utime(as_zip(Path("pets.zip"), dict.fromkeys(FILES, blank.getvalue())), ns=(time, time))
        found.append(load_folder(of(Path("pets.zip"), cache=str(tmp_path / "cache")))[0].images)
    assert [images.unique().tolist() for images in found] == [[1], [2], [3]]


def test_validation_is_split_from_train_by_the_seed(tmp_path):
    source = of(as_folder(tmp_path / "pets"), val_fraction=0.25)
    splits = load_splits(source, 0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (6, 2, 4)
    assert sorted(splits.val.labels.tolist()) == [0, 1]
    held_out = {pixels_of(load_splits(source, seed).val).numpy().tobytes() for seed in (0, 0, 1, 2, 3)}
    assert 2 <= len(held_out) <= 4


def without(prefix: str) -> dict[str, bytes]:
    return {name: data for name, data in FILES.items() if not name.startswith(prefix)}


def deep_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("I;16", (SIDE, SIDE), 40_000).save(buffer, "PNG")
    return buffer.getvalue()


WRONG = [
    (without("train"), r"has no train/ folder.*put images under train/CLASS/ and test/CLASS/"),
    (without("test"), r"has no test/ folder.*put images under"),
    (without("train/a"), r"a data set with one class, 'b'"),
    (FILES | {"test/c/1.png": encoded(1)}, r"has class 'c' under test/ and not under train/; name the"),
    (FILES | {"train/a/bad.jpg": b"no image"}, r"train/a/bad\.jpg: is no readable image.*mend or remove"),
    (FILES | {"train/a/cut.png": encoded(5)[:-40]}, r"train/a/cut\.png: is no readable image"),
    (FILES | {"test/b/0.png": b""}, r"test/b/0\.png: is no readable image"),
    (FILES | {"test/b/0.png": deep_png()}, r"test/b/0\.png: .*more than 8 bits"),
]


def test_a_bad_trees_one_line_names_the_remedy(tmp_path):
    for make in (as_folder, as_zip):
        for number, (files, message) in enumerate(WRONG):
            root = make(tmp_path / f"{make.__name__}{number}", files)
            refused(root, message)


def test_a_root_that_cannot_be_read_is_named(tmp_path):
    for root in (tmp_path / "gone", Path("a\0b")):
        refused(root, "does not exist; name a folder or a zip")
    root = as_folder(tmp_path / "pets")
    (root / "train" / "a" / "9.png").symlink_to(tmp_path / "gone")
    refused(root, r"cannot be read .*9\.png")
