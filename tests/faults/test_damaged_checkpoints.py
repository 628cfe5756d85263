"""A checkpoint that is cut short or has a bit flipped is never loaded as something else."""

import random
import re
import zipfile

import pytest
import torch
from support.processes import verb
from support.runs import assert_same, finish, tiny

from nas.errors import CheckpointError, NasWarning
from nas.train import checkpoint
from nas.train.checkpoint import load, load_newest

KILOBYTE = 1024


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with two checkpoints."""
    torch.set_num_threads(1)
    return finish(tiny(), tmp_path_factory.mktemp("run")).folder


def test_one_that_is_cut_short_at_any_kilobyte_is_refused_alone(run, tmp_path):
    data = checkpoint.saved(run)[0].read_bytes()
    path = tmp_path / "step_000000022.pt"
    assert len(data) > 20 * KILOBYTE
    for size in [*range(0, len(data), KILOBYTE), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="is damaged"):
            load(path)
        with pytest.raises(CheckpointError, match=r"none of the 1 checkpoints there can be read; take another"):
            load_newest(tmp_path)


def test_the_newest_cut_short_at_any_kilobyte_falls_back_to_the_one_before(run, tmp_path):
    newest, before = checkpoint.saved(run)
    data, expected = newest.read_bytes(), load(before)
    (tmp_path / before.name).write_bytes(before.read_bytes())
    for size in range(0, len(data), KILOBYTE):
        (tmp_path / newest.name).write_bytes(data[:size])
        with pytest.warns(NasWarning, match=f"{newest.name} is damaged .*; going on from {before.name}"):
            state = load_newest(tmp_path)
        assert_same(state, expected)


def flips(path, places):
    """Load with one bit flipped at each place; how many were noticed. Those that were not have changed nothing."""
    data, whole, noticed = path.read_bytes(), load(path), 0
    chosen = random.Random(0)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(damaged)
        try:
            assert_same(load(path), whole, f"byte {place}")
        except CheckpointError:
            noticed += 1
    path.write_bytes(data)
    return noticed


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(run, tmp_path):
    path = tmp_path / "step_000000022.pt"
    path.write_bytes(checkpoint.saved(run)[0].read_bytes())
    size, chosen = path.stat().st_size, random.Random(1)
    noticed = flips(path, [chosen.randrange(size) for _ in range(150)])
    assert noticed > 75  # the others are padding between two tensors


def test_a_flipped_bit_in_any_byte_of_the_archives_own_records_is_noticed_or_changes_nothing(run, tmp_path):
    path = tmp_path / "step_000000022.pt"
    path.write_bytes(checkpoint.saved(run)[0].read_bytes())
    with zipfile.ZipFile(path) as archive:
        entries, directory = archive.infolist(), archive.start_dir
    first, later = entries[0], entries[len(entries) // 2]
    size = path.stat().st_size
    # The first and one other entry's own header, their records in the directory, and what ends the file.
    records = directory + sum(46 + len(e.orig_filename) + len(e.extra) for e in entries[: len(entries) // 2])
    places = [*range(first.header_offset, first.header_offset + 30 + len(first.orig_filename))]
    places += [*range(later.header_offset, later.header_offset + 30 + len(later.orig_filename))]
    places += [*range(directory, directory + 80), *range(records, records + 80), *range(size - 98, size)]
    places += range(directory, size, 11)
    assert flips(path, places) > len(places) / 3


WORDS = ("data=synthetic", "data.size=300", "train.threads=1", "train.epochs=1", "train.save_every=2")
WORDS = (*WORDS, "track.tensorboard=false", "run=cut")


def test_the_command_says_what_is_damaged_and_goes_on_from_the_one_before(tmp_path):
    assert verb("train", *WORDS, folder=tmp_path).end()[0] == 0
    folder = tmp_path / "outputs" / "train" / "cut"
    whole = [load(path) for path in checkpoint.saved(folder)]
    newest = checkpoint.saved(folder)[0]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 8
    newest.write_bytes(data)
    status, out, err = verb("train", *WORDS, folder=tmp_path).end()
    assert status == 0
    assert "going on at step 2 of 4" in out
    assert re.fullmatch(r"nas-train: \S+step_000000004\.pt is damaged \(.*\); going on from step_000000002\.pt\n", err)
    for state, expected in zip(map(load, checkpoint.saved(folder)), whole, strict=True):
        assert_same(state["model"], expected["model"])
