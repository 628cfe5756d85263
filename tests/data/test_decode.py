"""Images are decoded by several processes as by one, and mapped; what is known of them is not computed again."""

import os
import signal

import pytest
import torch
from support.archives import SIDE, as_folder, as_zip, assert_same_sets, of, pixels_of, refused
from support.processes import FORK, TIMEOUT_S

from nas.data import load_splits
from nas.data.images import statistics
from nas.data.read import cache, decode
from nas.data.read.folder import load_folder


@pytest.fixture
def shared(monkeypatch):
    """Two processes decode, two images at a time."""
    monkeypatch.setattr(cache, "BLOCK_BYTES", 2 * 3 * SIDE**2)
    monkeypatch.setattr(decode, "ALONE_S", -1)
    monkeypatch.setattr(decode, "cores", lambda: 2)
    processes = []

    class Noting(decode._Worker):
        def __init__(self, *args):
            super().__init__(*args)
            processes.append(self._process)

    monkeypatch.setattr(decode, "_Worker", Noting)
    yield processes
    assert all(process.poll() is not None for process in processes), "none is left"


def test_several_processes_decode_what_one_does(tmp_path, shared, monkeypatch):
    source = of(as_zip(tmp_path / "pets.zip"))
    found = load_folder(source)
    assert len(shared) == 2
    monkeypatch.undo()
    assert_same_sets(found, load_folder(of(as_folder(tmp_path / "pets"), cache=str(tmp_path / "other"))))


def test_a_bad_image_or_a_killed_process_is_one_line(tmp_path, shared, monkeypatch):
    root = as_folder(tmp_path / "pets")
    (root / "train" / "b" / "3.png").write_bytes(b"no image")
    refused(root, r"train/b/3\.png: is no readable image \(cannot identify image file\)")
    as_folder(root)
    call = decode._Worker.__call__

    def killed(worker, files):
        os.kill(worker._process.pid, signal.SIGKILL)
        return call(worker, files)

    monkeypatch.setattr(decode._Worker, "__call__", killed)
    refused(root, r"train/a/0\.png: .*the process that decodes it and the 1 behind it ended with status -9")


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
