"""Archives that are cut short, caches that cannot be written, and a kill while one is."""

import zipfile

import pytest
from support.archives import as_zip, assert_same_sets, of, refused
from support.injection import full_disk, killed, operations, stages

from nas.data import cache
from nas.data.folder import load_folder
from nas.errors import NasWarning


@pytest.fixture
def source(tmp_path):
    """The settings of a zip."""
    return of(as_zip(tmp_path / "set.zip"))


def test_an_archive_cut_short_is_one_line(source, tmp_path):
    data = (tmp_path / "set.zip").read_bytes()
    for content in [b"no zip", *(data[:size] for size in (*range(0, len(data), 61), len(data) - 1))]:
        (tmp_path / "set.zip").write_bytes(content)
        rule = r"set\.zip: is neither a folder nor a zip that can be read.*make the zip again"
        refused(tmp_path / "set.zip", rule)


def test_an_archives_flipped_bit_is_one_line(source, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip") as file:
        first = file.infolist()[0]
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[first.header_offset + 30 + len(first.filename) + first.compress_size // 2] ^= 4
    (tmp_path / "set.zip").write_bytes(data)
    refused(tmp_path / "set.zip", rf"{first.filename}: is no readable image \(Bad CRC-32")


def test_an_older_formats_cache_is_not_found(source, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT - 1)
    expected = load_folder(source)
    (older,) = (tmp_path / "cache").glob("*.safetensors")
    older.write_bytes(b"another format")
    monkeypatch.undo()
    assert_same_sets(load_folder(source), expected)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2
    assert older.read_bytes() == b"another format"


def test_a_killed_cache_write_leaves_all_or_nothing(source, tmp_path):
    expected = load_folder(source)
    (cached,) = (tmp_path / "cache").glob("*.safetensors")
    cached.unlink()
    done = operations(lambda: load_folder(source))
    assert [name.split()[0] for name in done] == ["write", "fsync", "replace", "fsync", "unlink", "unlink"]
    for at, half in stages(done):
        cached.unlink()
        assert killed(lambda: load_folder(source), at, half), done[at]
        assert_same_sets(load_folder(source), expected)
        left = {path.name for path in (tmp_path / "cache").iterdir()}
        assert left <= {cached.name, f"{cached.name}.lock"}, done[at]


def test_an_unwritable_cache_is_a_warning(source, tmp_path):
    told = r"data\.cache=.*: images are decoded again every time \(.*\); name another folder"
    for at in range(4):
        with full_disk(at), pytest.warns(NasWarning, match=told):
            assert len(load_folder(source)[0]) == 8
        left = list((tmp_path / "cache").iterdir())
        assert len(left) == (at == 3), "it has its name, and only that is not on the disk"
        for path in left:
            path.unlink()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").touch()
    with pytest.warns(NasWarning, match=told):
        assert len(load_folder(source)[0]) == 8
