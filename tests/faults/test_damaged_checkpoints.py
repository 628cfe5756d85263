"""A checkpoint that is cut short or has a bit flipped is refused; training takes the one before."""

import random
import re

import pytest
import torch
from support.processes import verb
from support.runs import assert_same, finish, tiny

from nas import checkpoint
from nas.checkpoint import load, load_newest
from nas.errors import CheckpointError, NasWarning

RANDOM = [pytest.param(5, id="few"), pytest.param(200, id="many", marks=pytest.mark.thorough)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with two checkpoints."""
    torch.set_num_threads(1)
    return finish(tiny(), tmp_path_factory.mktemp("run")).folder


def regions(data):
    """The parts of a file by name: first byte and the one behind the last."""
    header = 8 + int.from_bytes(data[:8], "little")
    digits = data.index(b'"sha256":"') + len(b'"sha256":"')
    tensors = data.index(b'"model/')
    parts = {"length": (0, 8), "checksum": (digits, digits + 64), "metadata": (digits + 64, tensors)}
    return parts | {"header": (tensors, header), "tensors": (header, len(data))}


@pytest.mark.parametrize("number", RANDOM)
def test_one_cut_short_falls_back_to_its_predecessor(run, tmp_path, number):
    newest, before = checkpoint.saved(run)
    data, expected, chosen = newest.read_bytes(), load(before), random.Random(number)
    ends = {end for part in regions(data).values() for end in part} - {len(data)}
    path = tmp_path / newest.name
    for size in sorted({*ends, 1, len(data) - 1, *(chosen.randrange(len(data)) for _ in range(number))}):
        path.write_bytes(data[:size])
        (tmp_path / before.name).unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match="is damaged"):
            load(path)
        with pytest.raises(CheckpointError, match="none of the 1 checkpoints there can be read; take another run=NAME"):
            load_newest(tmp_path)
        (tmp_path / before.name).write_bytes(before.read_bytes())
        with pytest.warns(NasWarning, match=f"{newest.name} is damaged .*; going on from {before.name}"):
            assert_same(load_newest(tmp_path), expected)


@pytest.mark.parametrize("number", RANDOM)
def test_a_flipped_bit_anywhere_is_refused(run, tmp_path, number):
    path, chosen = tmp_path / "step_000000022.safetensors", random.Random(number)
    data = bytearray(checkpoint.saved(run)[0].read_bytes())
    path.write_bytes(data)
    load(path)
    for part, (begin, end) in regions(bytes(data)).items():
        for place in {begin, end - 1, *(chosen.randrange(begin, end) for _ in range(number))}:
            bit = 1 << chosen.randrange(8)
            data[place] ^= bit
            path.write_bytes(data)
            with pytest.raises(CheckpointError, match=r"is damaged \(") as caught:
                load(path)
            assert "\n" not in str(caught.value), (part, place, bit)
            data[place] ^= bit


WORDS = ("data=synthetic", "data.size=300", "train.threads=1", "train.epochs=1", "train.save_every=2")
WORDS = (*WORDS, "track.writers=[]", "run=cut")


def test_the_command_names_the_damage_and_goes_on(tmp_path):
    assert verb("train", *WORDS, folder=tmp_path).end()[0] == 0
    folder = tmp_path / "outputs" / "train" / "cut"
    whole = [load(path) for path in checkpoint.saved(folder)]
    newest = checkpoint.saved(folder)[0]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 8
    newest.unlink()  # the file that ``whole`` is mapped from
    newest.write_bytes(data)
    status, out, err = verb("train", *WORDS, folder=tmp_path).end()
    assert status == 0
    assert "going on at step 2 of 4" in out
    step = r"step_00000000{}\.safetensors"
    rule = rf"nas-train: \S+{step.format(4)} is damaged \(.*\); going on from {step.format(2)}\n"
    assert re.fullmatch(rule, err)
    for state, expected in zip(map(load, checkpoint.saved(folder)), whole, strict=True):
        assert_same(state["model"], expected["model"])
