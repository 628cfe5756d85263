"""Images are decoded by several processes as by one, and mapped; what is known of them is not computed again."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from mmap import PAGESIZE
from pathlib import Path
from subprocess import PIPE
from time import monotonic, sleep

import pytest
import torch
from support.archives import SIDE, as_folder, as_zip, assert_same_sets, encoded, of, pixels_of, refused
from support.processes import FORK, TIMEOUT_S

from nas.data import Batches, Ordered, load_splits
from nas.data.images import statistics
from nas.data.read import cache, decode
from nas.data.read.folder import load_folder
from nas.settings import FolderSettings


@pytest.fixture
def shared(monkeypatch):
    """Two processes decode, two images at a time."""
    monkeypatch.setattr(cache, "BLOCK_BYTES", 2 * 3 * SIDE**2)
    monkeypatch.setattr(decode, "ALONE_S", -1)
    monkeypatch.setattr(decode, "cores", lambda: 2)
    yield
    assert not workers(os.getpid()), "none is left"


def workers(parent):
    """The processes of loky, without the one that looks after its locks."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found += [int(status.parent.name)] * (b"popen_loky" in (status.parent / "cmdline").read_bytes())
    return found


def test_several_processes_decode_what_one_does(tmp_path, shared, monkeypatch):
    source = of(as_zip(tmp_path / "pets.zip"))
    monkeypatch.setattr(decode, "decode_image", lambda *_: pytest.fail("decodes in this process"))
    found = load_folder(source)
    monkeypatch.undo()
    assert_same_sets(found, load_folder(of(as_folder(tmp_path / "pets"), cache=str(tmp_path / "other"))))


def test_a_bad_image_or_a_killed_process_is_one_line(tmp_path, shared, monkeypatch):
    root = as_folder(tmp_path / "pets")
    (root / "train" / "b" / "3.png").write_bytes(b"no image")
    refused(root, r"train/b/3\.png: is no readable image \(cannot identify image file\)")
    as_folder(root)
    monkeypatch.setattr(decode, "decode_block", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    refused(root, r"train/a/0\.png: .*a process that decodes it, or one of those behind it, was killed")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_they_decode_for(tmp_path, number):
    script = tmp_path / "unguarded.py"
    script.write_text(ENDLESS)
    process = subprocess.Popen([sys.executable, script], stdout=PIPE, stderr=PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "decodes\n"
    found = workers(process.pid)
    assert len(found) == 2
    while not all("_imaging" in Path(f"/proc/{pid}/maps").read_text() for pid in found):  # one may be starting still
        assert process.poll() is None
        sleep(0.01)
    (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
    assert process.communicate(timeout=TIMEOUT_S)[1].count("Traceback") == (number == signal.SIGINT)
    end = monotonic() + TIMEOUT_S
    while any(Path(f"/proc/{pid}").exists() for pid in found):
        assert monotonic() < end
        sleep(0.05)


ENDLESS = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and what they start, ignore it
from itertools import repeat
from nas.data.read import decode
class Blocks:
    __len__, __iter__, __getitem__ = lambda _: 1000, lambda _: repeat(["a"]), lambda blocks, _: blocks
decode.ALONE_S, decode.cores = -1, lambda: 2
for number, _ in enumerate(decode.decode(Blocks(), lambda _: {encoded(0)!r}, {SIDE}, "crop")):
    if number == 100:
        print("decodes", flush=True)
"""


def test_processes_at_once_get_the_same_images(tmp_path):
    source = of(as_folder(tmp_path / "pets"))

    def child():
        torch.save(pixels_of(load_folder(source)[0]), tmp_path / f"{os.getpid()}.pt")

    children = [FORK.Process(target=child) for _ in range(3)]
    for process in children:
        process.start()
    for process in children:
        process.join(TIMEOUT_S)
    expected = pixels_of(load_folder(source)[0])
    found = [torch.load(path) for path in tmp_path.glob("*.pt")]
    assert len(found) == 3
    assert all(torch.equal(one, expected) for one in found)


def test_statistics_are_kept_for_the_same_images(tmp_path, monkeypatch):
    source = of(as_folder(tmp_path / "pets"), val_fraction=0.25)
    first, other = (load_splits(source, seed) for seed in (0, 2))
    assert not torch.equal(first.mean, other.mean)
    expected = statistics(first.train)
    monkeypatch.setattr(cache, "statistics", lambda _: pytest.fail("reads all images"))
    for splits in (first, load_splits(source, 0)):
        assert torch.equal(splits.mean, expected[0])
        assert torch.equal(splits.std, expected[1])


def test_a_mapping_outlives_its_file_and_counts_no_memory(tmp_path):
    source = of(as_folder(tmp_path / "pets"))
    pool, _ = load_folder(source)
    expected = pixels_of(pool)
    pool.file.unlink()
    again, _ = load_folder(source)
    assert torch.equal(pixels_of(pool), expected)
    assert torch.equal(pixels_of(again), expected)
    with open("/proc/self/maps") as maps:
        rights = [line.split()[1] for line in maps if "/pets-crop-8-" in line]
    assert set(rights) == {"r--s"}, "what could be written would have to fit into memory"


def test_the_kernel_is_told_which_images_come_next(tmp_path):
    splits = load_splits(of(as_folder(tmp_path / "pets"), val_fraction=0.25, crop=0, flip=False), 0)
    content, told = splits.test.file.read_bytes(), []

    class Noting:
        def madvise(self, _, start, length):
            assert start % PAGESIZE == 0
            told.append(content[start : start + length])

    train, test = (replace(images, mapping=Noting()) for images in (splits.train, splits.test))
    zero, one = torch.zeros(3), torch.full((3,), 1 / 255)  # leaves pixels as they are
    batches, ordered = Batches(train, zero, one, FolderSettings(crop=0, flip=False), 2, 0), Ordered(test, zero, one, 2)
    for batch, steps in (batches.batch, 4), (ordered.__getitem__, 1):  # over the end of an epoch
        for step in range(steps):
            told.clear()
            batch(step)
            ahead = list(told)
            for pixels, place in zip(batch(step + 1)[0].byte(), ahead, strict=True):
                assert pixels.numpy().tobytes() in place
