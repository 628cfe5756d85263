"""Archives that are cut short, caches that cannot be written, and a kill while one is."""

import shutil
import zipfile

import pytest
from support.archives import SIDE, as_folder, as_zip, assert_same_sets, of, refused
from support.injection import full_disk, killed, operations, stages

from nas.data.read import cache
from nas.data.read.folder import load_folder
from nas.data.read.untrusted import decode_image
from nas.errors import DataError


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
    (older,) = (tmp_path / "cache").glob("*.u8")
    monkeypatch.undo()
    assert_same_sets(load_folder(source), expected)
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 2
    assert older.is_file()


@pytest.fixture
def blocks(source, monkeypatch):
    """What is decoded; the images make blocks of 5, 5 and 2."""
    monkeypatch.setattr(cache, "BLOCK_BYTES", 5 * 3 * SIDE**2)
    decoded = []

    def noting(*args):
        decoded.append(args)
        return decode_image(*args)

    monkeypatch.setattr("nas.data.read.decode.decode_image", noting)
    return decoded


def test_decoding_goes_on_after_a_kill_or_a_full_disk(source, blocks, tmp_path):
    expected, files = load_folder(source), tmp_path / "cache"

    def clear():
        for path in files.iterdir():
            path.unlink()

    clear()
    done = operations(lambda: load_folder(source))
    assert [name.split()[0] for name in done] == ["unlink", *["write"] * 7, "fsync", "fsync", "replace", "fsync"]
    told = r"^data\.cache=.*: cannot keep 0\.00 MB of decoded images \(.*\); make room, or name another folder"
    for at, half in [*stages(done), *((at, None) for at in range(1, len(done)))]:
        clear()
        if half is None:
            with full_disk(at), pytest.raises(DataError, match=told):
                load_folder(source)
        else:
            assert killed(lambda: load_folder(source), at, half), done[at]
        assert len(list(files.glob("*.u8"))) == (at == len(done) - 1), "it has its name when the rest is on the disk"
        blocks.clear()
        assert_same_sets(load_folder(source), expected)
        journalled = sum("jsonl" in name for name in done[1 : min(at, 8)])  # its first line is of no block
        assert len(blocks) == max(0, 12 - 5 * max(0, journalled - 1)), (done[at], half)
        assert {path.suffix for path in files.iterdir()} == {".jsonl", ".lock", ".u8"}


def test_pixels_that_changed_after_a_kill_are_decoded_again(source, blocks, tmp_path):
    expected = load_folder(source)
    (path,) = (tmp_path / "cache").glob("*.u8")
    damaged = bytearray(path.read_bytes()[:-1])
    damaged[0] ^= 1
    path.with_name(path.name + ".unfinished").write_bytes(damaged)
    path.unlink()
    blocks.clear()
    assert_same_sets(load_folder(source), expected)
    assert len(blocks) == 12


def test_a_cache_without_room_is_one_line(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 5))
        with pytest.raises(DataError, match=r"0\.00 MB are to be written, and 0\.00 MB are free"):
            load_folder(source)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").touch()
    with pytest.raises(DataError, match=r"^data\.cache=.*cannot keep 0\.00 MB.*; make room, or name another folder"):
        load_folder(source)


def test_an_image_that_changes_meanwhile_is_named(tmp_path, monkeypatch):
    for root in (as_folder(tmp_path / "pets"), as_zip(tmp_path / "pets.zip")):

        def decode(*args, root=root):
            changed = root / "train" / "a" / "3.png" if root.is_dir() else root
            changed.write_bytes(changed.read_bytes() + b"0")
            return decode_image(*args)

        monkeypatch.setattr("nas.data.read.decode.decode_image", decode)
        monkeypatch.setattr(cache, "BLOCK_BYTES", 1)
        refused(root, "changed while images were decoded; begin again when nobody writes to it")
