"""What somebody else's images cannot do, in a zip or in a folder."""

import io
import json
import os
import re
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from support.archives import SIDE, as_folder, as_zip, assert_same_sets, encoded, of, refused

from nas.data.read import archive
from nas.data.read.cache import FORMAT
from nas.data.read.folder import load_folder
from nas.journal import Journal


def packed(path, extra=(), compression=zipfile.ZIP_STORED):
    return as_zip(path, compression=compression, extra=extra)


def entry(name, attributes):
    info = zipfile.ZipInfo(name)
    info.external_attr = attributes
    return info


OUTSIDE = ["/etc/a.png", "/etc/passwd", "train/a/../../../a.png", "../a.txt", "C:/a.png", "train\\a\\9.png"]
TWICE = ["train/a/0.png", "train/./a//0.png"]
LINKS = [0o120777 << 16, 0o010644 << 16, 0o060644 << 16]  # a link, a pipe, a device


def test_an_entry_that_leads_elsewhere_is_refused_undecoded(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.data.read.decode.decode_image", lambda *_: pytest.fail("decodes"))
    for names, rule in ((OUTSIDE, "leads out of the folder; paths of a zip"), (TWICE, "occurs twice, and nothing")):
        for name in names:
            refused(packed(tmp_path / "a.zip", [(name, b"?")]), re.escape(f": {name}: {rule}"))
    for attributes in LINKS:
        path = packed(tmp_path / "a.zip", [(entry("train/a/9.png", attributes), "/etc/passwd")])
        refused(path, r"train/a/9\.png: is a link or a device, not a file; make")


def test_folders_plain_modes_and_large_texts_are_fine(tmp_path):
    extra = [(entry("train/a/", 0o040755 << 16), b""), (entry("train/a/9.png", 0o100644 << 16), encoded(9))]
    extra.append(("notes.txt", bytes(4 << 20)))
    assert len(load_folder(of(packed(tmp_path / "a.zip", extra, zipfile.ZIP_DEFLATED)))[0]) == 9


def test_an_encrypted_entry_is_refused(tmp_path):
    path = packed(tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(path, r"train/b/0\.png: is no readable image .*encrypted")


def test_an_impossible_image_size_is_refused_unread(tmp_path, monkeypatch):
    bomb = zlib.compress(bytes(4 << 20), 9)
    assert archive.RATIO * len(bomb) < (4 << 20)
    path = packed(tmp_path / "a.zip", [("train/a/9.png", bytes(4 << 20))], zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(archive.Archive, "read", lambda *_: pytest.fail("reads"))
    refused(path, r"train/a/9\.png: claims that [\d,]+ bytes become 4,194,304, as those of no")
    monkeypatch.setattr(archive, "LARGEST", 1 << 20)
    refused(path, r"claims to have 4,194,304 bytes, and an image has at most 1,048,576")
    path = packed(tmp_path / "b.zip", [("train/a/9.png", b"?")], zipfile.ZIP_BZIP2)
    refused(path, "is compressed in another way than by deflate")
    monkeypatch.setattr(archive, "MOST", 3)
    refused(packed(tmp_path / "c.zip"), "there are more than 3")


def test_an_entry_gives_no_more_than_it_says(tmp_path):
    """100 bytes are declared; 50 MB would come out."""
    path = packed(tmp_path / "a.zip", [("train/a/9.png", bytes(50_000_000))], zipfile.ZIP_DEFLATED)
    data = path.read_bytes().replace(struct.pack("<L", 50_000_000), struct.pack("<L", 100))
    path.write_bytes(data)
    opened = archive.Archive(path, "a.zip", {".png"})

    tracemalloc.start()
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC"):
        opened.read("train/a/9.png")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    refused(path, r"train/a/9\.png: is no readable image")


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    path = packed(tmp_path / "a.zip")
    with zipfile.ZipFile(path) as zipped:
        first, second = zipped.infolist()[:2]
        data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(second.filename.encode()))
    place = at + 42  # of the header's offset
    path.write_bytes(data[:place] + struct.pack("<L", first.header_offset + 5) + data[place + 4 :])
    refused(path, r"overlaps another entry|[Oo]verlap")


# ---------------------------------------------------------------------------------------------------------- images


def png_header(width, height):
    """A PNG of that size whose data are a few zeros."""

    def chunk(kind, data):
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def test_an_unbounded_image_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decodes"))
    for width, height in ((9000, 9000), (60_000, 60_000), (1, 1 << 30), (1 << 31, 1 << 31)):
        path = packed(tmp_path / "a.zip", [("train/0/9.png", png_header(width, height))])
        refused(path, r"9\.png: is no readable image \(.*(pixels|bomb|identify|exceeds)")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_postscript_named_png_starts_no_program(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("starts a program"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("starts a program"))
    path = packed(tmp_path / "a.zip", [("train/a/9.png", POSTSCRIPT)])
    refused(path, r"train/a/9\.png: is no readable image")


def test_every_format_is_read_by_its_first_frame(tmp_path):
    for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"):
        more = {}
        if kind in ("GIF", "PNG", "TIFF", "WEBP"):
            frames = [Image.new("RGB", (SIDE, SIDE), (value, value, value)) for value in (100, 200)]
            more = {"save_all": True, "append_images": frames}
        data = encoded(7, kind, **more)
        pool, _ = load_folder(of(packed(tmp_path / f"{kind}.zip", [("train/a/9.png", data)])))
        expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        assert torch.equal(pool.images[4], torch.from_numpy(expected).permute(2, 0, 1)), kind


# ------------------------------------------------------------------------------------------------------------ folders


@pytest.fixture
def folder(tmp_path):
    return as_folder(tmp_path / "pets")


def test_circular_links_are_refused_and_others_followed(folder):
    circle = r"pets: train/.*: is a link to a folder that it lies in; remove this link"
    more = folder / "train" / "a" / "more"
    for target in (".", "..", "../.."):
        more.symlink_to(target, target_is_directory=True)
        refused(folder, circle)
        more.unlink()
    more.symlink_to("../b", target_is_directory=True)
    back = folder / "train" / "b" / "back"
    back.symlink_to("../a", target_is_directory=True)
    refused(folder, circle)
    back.unlink()
    assert len(load_folder(of(folder))[0]) == 12


def test_links_that_multiply_are_counted(folder, monkeypatch):
    for level in range(12):
        (folder / f"l{level}").mkdir()
        for name in ("x", "y"):
            (folder / f"l{level}" / name).symlink_to(f"../l{level + 1}", target_is_directory=True)
        (folder / f"l{level}" / "f").touch()
    monkeypatch.setattr("nas.data.read.untrusted.MOST", 1000)
    refused(folder, "has more than 1,000 files")


def test_a_pipe_is_not_waited_for(folder, tmp_path):
    os.mkfifo(folder / "train" / "a" / "9.png")
    refused(folder, r"train/a/9\.png: is no file")
    os.mkfifo(tmp_path / "pipe.zip")
    refused(tmp_path / "pipe.zip", "is neither a folder nor a file")


def test_a_file_larger_than_images_is_not_read(folder):
    with (folder / "train" / "a" / "9.png").open("wb") as file:
        file.truncate(archive.LARGEST + 1)
    refused(folder, r"9\.png: has 67,108,865 bytes, and an image has at most 67,108,864")


# -------------------------------------------------------------------------------------------------------------- cache


JOURNALS = {
    "no classes": [],
    "classes of numbers": [{"classes": [1, 2], "counts": {"train": [4, 4], "test": [2, 2]}}],
    "one class": [{"classes": ["a"], "counts": {"train": [4, 4], "test": [2, 2]}}],
    "numbers below 0": [{"classes": ["a", "b"], "counts": {"train": [-4, 14], "test": [2, 2]}}],
    "huge numbers": [{"classes": ["a", "b"], "counts": {"train": [1 << 50] * 2, "test": [1 << 50] * 2}}],
    "no test": [{"classes": ["a", "b"], "counts": {"train": [8, 4], "test": [0, 0]}}],
    "no checksums": [{"classes": ["a", "b"], "counts": {"train": [4, 4], "test": [2, 2]}}],
    "other entries": [{"classes": ["a", "b"]}],
}


def test_a_foreign_cache_is_decoded_again(tmp_path, monkeypatch):
    source = of(packed(tmp_path / "a.zip"))
    expected = load_folder(source)
    (pixels,), (path,) = (tuple((tmp_path / "cache").glob(name)) for name in ("*.u8", "*.jsonl"))
    whole, written = pixels.read_bytes(), path.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    wrong = {"nothing": (b"", written), "half": (whole[:99], written), "a flipped bit": (flipped, written)}
    wrong |= {"longer": (whole + b"0", written), "no journal": (whole, b""), "half a journal": (whole, written[:99])}
    sums = [json.loads(line) for line in written.splitlines()[2:]]
    for entry in sums:
        del entry["crc32"]
    for what, entries in JOURNALS.items():
        path.unlink()
        journal = Journal(path, "cache", {"format": FORMAT, "size": SIDE}, lambda _: None, result=path)
        journal.append(*entries, *(sums if what != "no checksums" else ()))
        wrong[what] = whole, path.read_bytes()
    for what, (content, journal) in wrong.items():
        pixels.unlink(missing_ok=True)  # what was mapped stays
        pixels.write_bytes(content)
        path.write_bytes(journal)
        assert_same_sets(load_folder(source), expected, what)
        assert (pixels.read_bytes(), path.read_bytes()) == (whole, written), what
    monkeypatch.setattr("nas.data.read.decode.decode_image", lambda *_: pytest.fail("decodes"))
    assert_same_sets(load_folder(source), expected)
