"""A run that is stopped, at any moment and in any way, ends where the undisturbed run ends."""

import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from support.processes import verb
from support.restless import Restless
from support.runs import MIXED, RUNS, assert_same, curves, finish, state_of, stop_after, tiny

from nas import checkpoint
from nas.errors import CheckpointError
from nas.settings import CustomSettings, TrainRunSettings
from nas.signals import Interrupted
from nas.train import Run, fit


@pytest.mark.parametrize("name", RUNS)
def test_resumed_run_equals_uninterrupted_run(name, tmp_path):
    """So the same seed gives the same run; another seed gives another."""
    settings = tiny(RUNS[name])
    if name == "chain-learned":
        settings = replace(settings, data=replace(settings.data, **MIXED))
    whole = state_of(finish(settings, tmp_path / "whole"))
    expected = curves(tmp_path / "whole")
    for stop in (1, 7, 11):  # before the first checkpoint of an epoch, between two lines of the log, at an epoch's end
        folder = tmp_path / f"stopped{stop}"
        run = Run(settings, folder)
        stop_after(run, stop)
        with pytest.raises(Interrupted):
            fit(run)
        run.tracker.writer.close()
        resumed = Run(settings, folder)
        assert resumed.step == stop
        fit(resumed)
        resumed.tracker.writer.close()
        assert_same(state_of(resumed), whole, f"stopped after {stop}")
        assert curves(folder) == expected
    # Killed in the middle of the second epoch, after the first epoch's checkpoint: what was logged since is redone.
    newest, before = checkpoint.saved(tmp_path / "whole")
    newest.unlink()
    resumed = finish(settings, tmp_path / "whole")
    assert resumed.step == resumed.total_steps > int(before.stem.split("_")[1])
    assert_same(state_of(resumed), whole, "an older checkpoint")
    assert curves(tmp_path / "whole") == expected
    other = finish(replace(settings, seed=1), tmp_path / "other").supernet.state_dict()
    assert any(not torch.equal(other[name], tensor) for name, tensor in whole["model"].items())


def test_old_checkpoints_are_refused_and_begin_no_run(tmp_path):
    (tmp_path / "step_000000011.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"of an older version of gated-nas \(step_000000011.pt\); train again"):
        Run(tiny(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_of_other_streams_is_refused_but_read(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(checkpoint.file, "STREAMS", 1)
        finish(tiny(epochs=1), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"^run=.*: was begun by gated-nas .*, which drew other batches .*run=NAME"
    ):
        Run(tiny(epochs=1), tmp_path)
    assert checkpoint.load_trained(tmp_path).step
    finish(tiny(epochs=1, init=str(tmp_path)), tmp_path / "on")


def test_extra_state_of_modules_is_saved_or_refused(tmp_path, monkeypatch):
    settings, kept = tiny(TrainRunSettings(space=CustomSettings(factory="support.restless:Restless")), epochs=1), []
    monkeypatch.setattr(Restless, "get_extra_state", lambda self: object())
    with pytest.raises(CheckpointError, match="checkpoint=model/_extra_state: cannot hold"):
        Run(settings, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(Restless, "get_extra_state", lambda self: {"seen": [1, 2.5]})
    monkeypatch.setattr(Restless, "set_extra_state", lambda self, state: kept.append(state))
    finish(settings, tmp_path)
    Run(settings, tmp_path).tracker.writer.close()
    assert kept[-1] == {"seen": [1, 2.5]}


def test_another_config_is_refused_with_the_difference(tmp_path):
    finish(tiny(epochs=1), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"train.epochs: 1 -> 3.*run=NAME"):
        Run(tiny(epochs=3), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    settings = tiny(save_every=5)
    run = Run(settings, tmp_path)
    put = os.replace

    def full(source, target):
        if "000000010" in str(target):
            raise OSError(28, "No space left on device", str(target))
        put(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*the checkpoint before it is intact"):
        fit(run)
    monkeypatch.undo()
    assert [path.name for path in checkpoint.saved(tmp_path)] == ["step_000000005.safetensors"]
    assert not list(tmp_path.glob("*.unfinished"))
    assert Run(settings, tmp_path).step == 5


WORDS = ("space=chain", "space.widths=[4]", "space.depths=[2]", "space.strides=[1]", "data=synthetic", "data.size=400")
WORDS += (
    "data.image_size=16",
    "train.epochs=3",
    "train.batch_size=8",
    "train.threads=1",
    "train.fast=none",
    "train.save_every=7",
)
WORDS += ("track.log_every=3", "gate=fair")


def test_a_killed_process_resumes_with_the_same_command(tmp_path):
    """SIGKILL at moments that nobody has chosen: by wall clock, as soon as there is something to lose."""
    assert verb("train", *WORDS, "run=whole", folder=tmp_path).wait() == 0
    folder, kills = tmp_path / "outputs/train/killed", 0
    for delay in (0.01, 0.3, 0.1):
        process = verb("train", *WORDS, "run=killed", folder=tmp_path)
        while process.poll() is None and len(list(folder.glob("events*"))) <= kills:
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills, "nothing was killed: the run is too short for this test"
    assert verb("train", *WORDS, "run=killed", folder=tmp_path).wait() == 0
    ended = [checkpoint.load(checkpoint.saved(tmp_path / "outputs/train" / name)[0]) for name in ("whole", "killed")]
    for state in ended:
        state["track"] = [state["track"][name] for name in ("counts", "evaluations", "accuracies")]
        del state["metrics_bytes"]  # the digits of seconds
    assert_same(*ended)
    assert curves(folder) == curves(tmp_path / "outputs/train/whole")
