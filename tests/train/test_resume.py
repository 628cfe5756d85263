"""A run that is stopped, at any moment and in any way, ends where the undisturbed run ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from support.runs import RUNS, assert_same, finish, state_of, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas.errors import CheckpointError, NasWarning
from nas.signals import Interrupted
from nas.train import Run, checkpoint, fit

TIMED = ("time/", "throughput/images_per_s")


def curves(folder):
    """(metrics.jsonl, TensorBoard's scalars) without what a clock has measured."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in line.items() if not k.startswith(TIMED)} for line in lines]
    board = EventAccumulator(str(folder))
    board.Reload()
    tags = [tag for tag in board.Tags()["scalars"] if not tag.startswith(TIMED)]
    return lines, {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


def stop_after(run, steps):
    """Let the loop be interrupted when ``steps`` steps are made, as SIGTERM does."""
    advance = run.progress.advance

    def hit(step, *rest):
        advance(step, *rest)
        if step == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    run.progress.advance = hit


@pytest.mark.parametrize("stop", [1, 7, 11, 21])
def test_resumed_run_equals_uninterrupted_run(settings, stop, tmp_path):
    whole = state_of(finish(settings, tmp_path / "whole"))
    run = Run(settings, tmp_path / "stopped")
    stop_after(run, stop)
    with pytest.raises(Interrupted):
        fit(run)
    run.tracker.writer.close()
    resumed = Run(settings, tmp_path / "stopped")
    assert resumed.step == stop
    fit(resumed)
    resumed.tracker.writer.close()
    assert_same(state_of(resumed), whole)
    assert curves(tmp_path / "stopped") == curves(tmp_path / "whole")


def test_going_back_to_an_older_checkpoint_ends_the_same(settings, tmp_path):
    # Killed after the first epoch's checkpoint, in the middle of the second epoch: what was logged since is redone.
    whole = state_of(finish(settings, tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    newest, before = checkpoint.saved(tmp_path / "killed")
    newest.unlink()
    resumed = finish(settings, tmp_path / "killed")
    assert resumed.step == resumed.total_steps
    assert int(before.stem.split("_")[1]) < resumed.step
    assert_same(state_of(resumed), whole)
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path):
    settings = tiny()
    whole = state_of(finish(settings, tmp_path))
    newest, before = checkpoint.saved(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-1000])
    with pytest.warns(NasWarning, match=f"{newest.name} is damaged.*going on from {before.name}"):
        resumed = Run(settings, tmp_path)
    assert f"step_{resumed.step:09d}" == before.stem
    fit(resumed)
    assert_same(state_of(resumed), whole)


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path):
    finish(tiny(), tmp_path)
    newest = checkpoint.saved(tmp_path)[0]
    data, whole, noticed = newest.read_bytes(), checkpoint.load(newest), 0
    for place in range(0, len(data), len(data) // 40):
        newest.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        try:
            assert_same(checkpoint.load(newest), whole)  # it was in the padding between two tensors
        except CheckpointError:
            noticed += 1
    assert noticed > 10


def test_no_readable_checkpoint_is_an_error_and_not_a_new_run(tmp_path):
    finish(tiny(), tmp_path)
    for path in checkpoint.saved(tmp_path):
        path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        Run(tiny(), tmp_path)


def test_another_config_is_refused_with_the_difference(tmp_path):
    finish(tiny(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"train.epochs: 2 -> 3.*run=NAME"):
        Run(tiny(epochs=3), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    settings = tiny(save_every=5)
    run = Run(settings, tmp_path)
    replace = os.replace

    def full(source, target):
        if "000000010" in str(target):
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*the checkpoint before it is intact"):
        fit(run)
    monkeypatch.undo()
    assert [path.name for path in checkpoint.saved(tmp_path)] == ["step_000000005.pt"]
    assert not list(tmp_path.glob("*.unfinished"))
    assert Run(settings, tmp_path).step == 5


def test_checkpoints_hold_no_code(tmp_path):
    finish(tiny(RUNS["chain-learned"]), tmp_path)
    state = torch.load(checkpoint.saved(tmp_path)[0], weights_only=True)
    assert {"settings", "space", "model", "optimizer", "gate", "step", "versions", "format"} <= state.keys()


COMMAND = [sys.executable, "-m", "nas.cli.train", "space=chain", "space.widths=[4]", "space.depths=[2]"]
COMMAND += ["space.strides=[1]", "data=synthetic", "data.size=400", "data.image_size=16", "train.epochs=6"]
COMMAND += ["train.batch_size=8", "train.threads=1", "train.save_every=7", "track.log_every=3", "gate=fair"]


def test_a_killed_process_goes_on_with_the_same_command(tmp_path):
    """SIGKILL at moments that nobody has chosen: by wall clock, until the run has survived to its end."""

    def start(name):
        output = subprocess.DEVNULL
        return subprocess.Popen([*COMMAND, f"run={name}"], cwd=tmp_path, stdout=output, stderr=output)

    assert start("whole").wait() == 0
    kills = 0
    folder = tmp_path / "outputs/train/killed"
    for delay in (0.05, 0.4, 0.9):
        process = start("killed")
        seen = len(checkpoint.saved(folder)) if folder.is_dir() else 0
        limit = time.monotonic() + 60
        # Only from its first steps on is there something to lose.
        while process.poll() is None and time.monotonic() < limit:
            if folder.is_dir() and len(list(folder.glob("events*"))) > kills:
                break
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        assert seen <= checkpoint.KEPT
    assert kills, "nothing was killed: the run is too short for this test"
    assert start("killed").wait() == 0
    ended = [checkpoint.load(checkpoint.saved(tmp_path / "outputs/train" / name)[0]) for name in ("whole", "killed")]
    for state in ended:
        for name in ("run_images", "run_s", "window", "paths", "path_sums"):  # seconds
            del state["track"][name]
        del state["metrics_bytes"]  # the digits of seconds
    assert_same(*ended)
    assert curves(folder) == curves(tmp_path / "outputs/train/whole")
