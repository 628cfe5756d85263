import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from nas.data import folder, load_splits
from nas.data.folder import load_folder
from nas.errors import DataError, NasWarning
from nas.settings import FolderSettings

SIDE = 8


def png(value: int, width: int = SIDE, height: int = SIDE, mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(value).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def deep_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("I;16", (SIDE, SIDE), 40_000).save(buffer, "PNG")
    return buffer.getvalue()


def tree() -> dict[str, bytes]:
    """The files of a data set with the classes cat and dog."""
    files = {f"train/{name}/{i}.png": png(10 * k + i) for k, name in enumerate(("dog", "cat")) for i in range(4)}
    files |= {f"test/{name}/{i}.png": png(100 + 10 * k + i) for k, name in enumerate(("dog", "cat")) for i in range(2)}
    return files


def as_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def as_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def settings(root: Path, cache: Path | None = None, **more) -> FolderSettings:
    return FolderSettings(root=str(root), cache=str(cache or root.parent / "cache"), image_size=SIDE, **more)


def assert_same(left, right) -> None:
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert a.classes == b.classes


@pytest.fixture
def no_decoding(monkeypatch):
    def forbid() -> None:
        monkeypatch.setattr(folder, "decode_image", lambda *_: pytest.fail("decoded again"))

    return forbid


def test_images_and_labels_are_those_of_the_files(tmp_path):
    pool, test = load_folder(settings(as_folder(tmp_path / "pets", tree())))
    assert pool.classes == test.classes == ("cat", "dog")
    assert pool.labels.tolist() == [0] * 4 + [1] * 4
    expected = np.asarray(Image.open(io.BytesIO(png(12))))  # train/cat/2.png
    assert torch.equal(pool.images[2], torch.from_numpy(expected.copy()).permute(2, 0, 1))
    assert len(test) == 4


def test_a_zip_equals_its_folder_whatever_its_order_and_top(tmp_path):
    expected = load_folder(settings(as_folder(tmp_path / "pets", tree())))
    reverse = dict(reversed(tree().items()))
    topped = {f"./pets/{name}": data for name, data in tree().items()}
    assert_same(load_folder(settings(as_zip(tmp_path / "a.zip", reverse))), expected)
    assert_same(load_folder(settings(as_zip(tmp_path / "b.zip", topped, zipfile.ZIP_DEFLATED))), expected)


def test_what_is_no_image_is_ignored(tmp_path):
    extra = dict.fromkeys(["README.md", "train/cat/notes.txt", "__MACOSX/train/cat/._0.png", "train/.x/1.png"], b"?")
    expected = load_folder(settings(as_zip(tmp_path / "a.zip", tree())))
    assert_same(load_folder(settings(as_zip(tmp_path / "b.zip", tree() | extra))), expected)
    assert_same(load_folder(settings(as_folder(tmp_path / "c", tree() | extra))), expected)


def test_other_sizes_and_modes_become_square_rgb(tmp_path):
    files = tree() | {"train/cat/9.png": png(3, width=30, height=20), "train/cat/8.png": png(4, mode="L")}
    pool, _ = load_folder(settings(as_folder(tmp_path / "pets", files)))
    fitted = ImageOps.fit(Image.open(io.BytesIO(files["train/cat/9.png"])), (SIDE, SIDE))
    assert torch.equal(pool.images[5], torch.from_numpy(np.array(fitted)).permute(2, 0, 1))
    assert torch.equal(pool.images[4, 0], pool.images[4, 2])


@pytest.mark.parametrize("make", [as_folder, as_zip])
def test_cache_hit_equals_decode_and_does_not_decode(tmp_path, no_decoding, make):
    source = settings(make(tmp_path / "pets", tree()))
    decoded = load_folder(source)
    no_decoding()
    assert_same(load_folder(source), decoded)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


@pytest.mark.parametrize("make", [as_folder, as_zip])
def test_a_changed_source_or_size_is_decoded_again(tmp_path, make):
    root = make(tmp_path / "pets", tree())
    before, _ = load_folder(settings(root))
    make(tmp_path / "pets", tree() | {"train/cat/2.png": png(77)})
    after, _ = load_folder(settings(root))
    assert not torch.equal(before.images, after.images)
    larger = FolderSettings(root=str(root), cache=str(tmp_path / "cache"), image_size=SIDE + 1)
    assert load_folder(larger)[0].images.shape[-1] == SIDE + 1


def test_a_touched_source_is_decoded_again(tmp_path, monkeypatch):
    root = as_zip(tmp_path / "a.zip", tree())
    load_folder(settings(root))
    os.utime(root, ns=(1, 1))
    calls = []
    monkeypatch.setattr(folder, "decode_image", lambda *_: calls.append(1) or np.zeros((SIDE, SIDE, 3), np.uint8))
    load_folder(settings(root))
    assert len(calls) == 12


def test_sources_of_one_name_size_and_time_are_kept_apart(tmp_path, monkeypatch):
    found = []
    for place, value in ("a", 1), ("b", 2):
        blank = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (value, value, value)).save(blank, "BMP")
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        os.utime(as_zip(Path("pets.zip"), dict.fromkeys(tree(), blank.getvalue())), ns=(1, 1))
        found.append(load_folder(settings(Path("pets.zip"), cache=tmp_path / "cache"))[0].images)
    assert [images.unique().tolist() for images in found] == [[1], [2]]


def test_a_damaged_cache_is_replaced(tmp_path, no_decoding):
    source = settings(as_folder(tmp_path / "pets", tree()))
    decoded = load_folder(source)
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(cached.read_bytes()[:300])
    assert_same(load_folder(source), decoded)
    no_decoding()
    assert_same(load_folder(source), decoded)


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    source = settings(as_folder(tmp_path / "pets", tree()), cache=tmp_path / "file" / "below")
    with pytest.warns(NasWarning, match=r"data\.cache=.*decoded again"):
        pool, _ = load_folder(source)
    assert len(pool) == 8


def test_progress_goes_to_stderr_alone(tmp_path, capsys):
    load_folder(settings(as_folder(tmp_path / "pets", tree())), progress=True)
    assert capsys.readouterr().out == ""


def test_validation_is_split_from_train_by_the_seed(tmp_path):
    source = settings(as_folder(tmp_path / "pets", tree()), val_fraction=0.25)
    splits = load_splits(source, 0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (6, 2, 4)
    assert sorted(splits.val.labels.tolist()) == [0, 1]
    held_out = {load_splits(source, seed).val.images.numpy().tobytes() for seed in (0, 0, 1, 2, 3)}
    assert 2 <= len(held_out) <= 4


def without(prefix: str) -> dict[str, bytes]:
    return {name: data for name, data in tree().items() if not name.startswith(prefix)}


WRONG = [
    (without("train"), r"has no train/ folder.*put images under train/CLASS/ and test/CLASS/"),
    (without("test"), r"has no test/ folder.*put images under"),
    (without("train/cat"), r"a data set with one class, 'dog'"),
    (tree() | {"test/cow/1.png": png(1)}, r"has class 'cow' under test/ and not under train/; name the"),
    (tree() | {"train/cat/bad.jpg": b"no image"}, r"train/cat/bad\.jpg: is no readable image.*mend or remove"),
    (tree() | {"train/cat/cut.png": png(5)[:-40]}, r"train/cat/cut\.png: is no readable image"),
    (tree() | {"test/dog/0.png": b""}, r"test/dog/0\.png: is no readable image"),
    (tree() | {"test/dog/0.png": deep_png()}, r"test/dog/0\.png: .*more than 8 bits"),
]


def test_a_bad_tree_is_one_line_with_the_remedy(tmp_path):
    for make in (as_folder, as_zip):
        for number, (files, message) in enumerate(WRONG):
            root = make(tmp_path / f"{make.__name__}{number}", files)
            with pytest.raises(DataError, match=re.escape(f"data.root={root}") + ".*" + message) as caught:
                load_folder(settings(root))
            assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/*"))


def test_an_image_too_large_to_be_true_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    root = as_zip(tmp_path / "a.zip", tree())
    with pytest.raises(DataError, match=r"train/cat/0\.png: is no readable image .*decompression bomb"):
        load_folder(settings(root))


def test_an_absent_root_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.root=.*gone: does not exist; name a folder or a zip"):
        load_folder(settings(tmp_path / "gone"))


def test_a_link_to_nothing_is_named(tmp_path):
    root = as_folder(tmp_path / "pets", tree())
    (root / "train" / "cat" / "9.png").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"cannot be read .*9\.png"):
        load_folder(settings(root))


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_a_damaged_archive_is_named(tmp_path, damage):
    root = as_zip(tmp_path / "a.zip", tree())
    root.write_bytes(b"no zip" if damage == "text" else root.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"a\.zip: is neither a folder nor a zip that can be read.*make the zip again"):
        load_folder(settings(root))


def test_an_entry_with_a_bad_checksum_is_named(tmp_path):
    root = as_zip(tmp_path / "a.zip", tree())
    data = bytearray(root.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1  # in the first entry
    root.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip: train/dog/0\.png: .*Bad CRC-32"):
        load_folder(settings(root))
