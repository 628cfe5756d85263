"""Archives that were cut short, and caches that are not those of their source."""

import io
import json
import os
import warnings
import zipfile

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.injection import killed, operations, stages
from support.runs import assert_same

import nas.data.cache
from nas.data import load_splits
from nas.errors import DataError
from nas.settings import FolderSettings


def archive(path, shade=0):
    """A zip of eight images."""
    with zipfile.ZipFile(path, "w") as file:
        for i in range(8):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (20 * i + shade, 90, 9)).save(buffer, "PNG")
            file.writestr(f"{'test' if i > 5 else 'train'}/{'ab'[i % 2]}/{i}.png", buffer.getvalue())
    return path


def settings(tmp_path, **more):
    return FolderSettings(
        root=str(tmp_path / "set.zip"), cache=str(tmp_path / "cache"), image_size=8, val_fraction=0.34, **more
    )


def load(tmp_path):
    splits = load_splits(settings(tmp_path), 0)
    return {name: vars(getattr(splits, name)) for name in ("train", "val", "test")}


def test_an_archive_cut_short_is_one_line(tmp_path):
    data = archive(tmp_path / "set.zip").read_bytes()
    assert len(data) > 1000
    for size in [*range(0, len(data), 61), len(data) - 1]:
        (tmp_path / "set.zip").write_bytes(data[:size])
        with pytest.raises(DataError, match=r"data\.root=.*set\.zip: is neither a folder nor a zip that can be read"):
            load(tmp_path)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_flipped_bit_in_an_archive_is_one_line(tmp_path):
    path = archive(tmp_path / "set.zip")
    with zipfile.ZipFile(path) as file:
        first = file.infolist()[0]
    data = bytearray(path.read_bytes())
    data[first.header_offset + 30 + len(first.filename) + first.compress_size // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"0\.png: is no readable image"):
        load(tmp_path)


def test_a_cache_of_an_older_format_is_not_found(tmp_path, monkeypatch):
    archive(tmp_path / "set.zip")
    monkeypatch.setattr(nas.data.cache, "FORMAT", nas.data.cache.FORMAT - 1)
    expected = load(tmp_path)
    (older,) = (tmp_path / "cache").glob("*.safetensors")
    older.write_bytes(b"another format")
    monkeypatch.undo()
    assert_same(load(tmp_path), expected)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2
    assert older.read_bytes() == b"another format"


U8 = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
SETS = {"images": U8, "labels": U8[:, 0, 0, 0], "test_images": U8, "test_labels": U8[:, 0, 0, 0]}
SETS = {name: x.clone() for name, x in SETS.items()}
CLASSES = {"classes": json.dumps(["a", "b"])}
OTHERS = {
    "nothing": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "other tensors": lambda path: save_file({"others": U8}, path, CLASSES),
    "no classes": lambda path: save_file(SETS, path),
}


def test_a_cache_with_other_content_is_made_again(tmp_path):
    archive(tmp_path / "set.zip")
    expected = load(tmp_path)
    (cached,) = (tmp_path / "cache").glob("*.safetensors")
    size = cached.stat().st_size
    for other in OTHERS.values():
        other(cached)
        assert_same(load(tmp_path), expected)
        assert cached.stat().st_size == size  # the order of two words in it is by chance
        assert_same(load(tmp_path), expected)


def test_a_source_changed_by_a_clock_set_back_is_read(tmp_path):
    path = archive(tmp_path / "set.zip")
    before = load(tmp_path)
    os.utime(archive(path, shade=5), (1.0, 1.0))  # of the same size, and older than the cache
    after = load(tmp_path)
    assert not torch.equal(before["train"]["images"], after["train"]["images"])


def test_a_killed_cache_write_leaves_none_or_a_whole_one(tmp_path):
    archive(tmp_path / "set.zip")
    expected = load(tmp_path)
    (cached,) = (tmp_path / "cache").glob("*.safetensors")
    cached.unlink()
    done = operations(lambda: load(tmp_path))
    assert [name.split()[0] for name in done] == ["fsync", "replace", "fsync", "unlink", "unlink"]
    for at, half in [*stages(done)]:
        cached.unlink()
        assert killed(lambda: load(tmp_path), at, half), done[at]
        assert_same(load(tmp_path), expected)
        assert not list((tmp_path / "cache").glob("*.unfinished")), done[at]


def test_a_disk_too_full_for_a_cache_is_a_warning(tmp_path, monkeypatch):
    archive(tmp_path / "set.zip")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nas.data.cache, "save_file", full)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = load(tmp_path)
    assert len(found["train"]["labels"]) == 4
    assert [str(w.message) for w in told if "images are decoded again every time" in str(w.message)]
    assert not list((tmp_path / "cache").iterdir())
