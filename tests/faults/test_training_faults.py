"""A training run that is killed, or whose disk is full, at any write: the same command ends as if undisturbed."""

import json
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.injection import full_disk, killed, operations, stages
from support.runs import TIMED, assert_same, curves, state_of, tiny

from nas import checkpoint
from nas.errors import CheckpointError, NasError
from nas.train import Run, fit, make_report
from nas.train.report import read_report

WHOLE = tiny(save_every=2)
SETTINGS = replace(
    WHOLE,
    data=replace(WHOLE.data, size=40, image_size=8, val_fraction=0.2, crop=0),
    evaluate=replace(WHOLE.evaluate, recalibrate_images=8),
    track=replace(WHOLE.track, log_every=2),
)
"""6 steps, a checkpoint every second one."""


def train(folder):
    run = Run(SETTINGS, folder)
    fit(run)
    make_report(run)
    run.tracker.writer.close()
    return run


def what_is_left(run):
    """All that must not depend on faults: the run, its curves in both files, its report."""
    report = replace(read_report(run.folder), images_per_s=0.0)
    # Of a kill between a checkpoint's renaming and its predecessors' removal there is one more: the newest are kept.
    others = [path for path in run.folder.iterdir() if not path.name.startswith(("events", "step_"))]
    files = sorted(path.name for path in [*others, *checkpoint.saved(run.folder)[: checkpoint.KEPT]])
    state = state_of(run)
    del state["random"]  # each step seeds the global generator, and a run that had ended already makes none
    return {"state": state, "curves": curves(run.folder), "report": vars(report), "files": files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What is left of a run that nothing happened to, and what it did to the disk."""
    folder, runs = tmp_path_factory.mktemp("undisturbed"), []
    done = operations(lambda: runs.append(train(folder)))
    left = what_is_left(runs[0])
    assert [line["step"] for line in left["curves"][0]] == [2, 3, 4, 6, 6, 7]
    for curve in left["curves"][1].values():
        assert [step for step, _ in curve] == sorted({step for step, _ in curve})
    return SimpleNamespace(left=left, done=done)


def of(done, part):
    """The stages of some files, by what is done to them."""
    return [stage for stage in stages(done) if part in done[stage[0]]]


@pytest.mark.parametrize("part", ["step_", "write events", "write metrics", "report.json"])
def test_a_kill_in_any_write_changes_nothing(tmp_path, undisturbed, part, sample):
    chosen = of(undisturbed.done, part)
    if part == "step_":
        chosen += [(i + 1, False) for i, name in enumerate(undisturbed.done) if "replace" in name]
        assert {undisturbed.done[at].split()[0] for at, _ in chosen} == {"write", "fsync", "replace", "unlink"}
    assert len(chosen) > 3
    for stage in sample(chosen, 4):
        folder, where = tmp_path / "run", f"killed at {undisturbed.done[stage[0]]}, {stage}"
        assert killed(lambda folder=folder: train(folder), *stage), where
        assert_same(what_is_left(train(folder)), undisturbed.left, where)
        shutil.rmtree(folder)


def test_kills_one_after_another_add_nothing(tmp_path, undisturbed):
    at = 14  # of each process in turn: in its first checkpoint
    kills = 0
    while killed(lambda: train(tmp_path), at, True):
        kills += 1
        at += 3
        assert kills < 20
    assert kills > 2
    assert_same(what_is_left(train(tmp_path)), undisturbed.left)


def test_a_full_disk_is_told_and_training_resumes(tmp_path, undisturbed, sample):
    writes = [i for i, name in enumerate(undisturbed.done) if name.split()[0] in ("write", "fsync", "replace")]
    checkpoints = [i for i in writes if "step_" in undisturbed.done[i]]
    for at in [*sample(checkpoints, 3), *sample(writes, 3)]:
        folder, where = tmp_path / str(at), f"full at {undisturbed.done[at]}"
        with pytest.raises((CheckpointError, OSError)) as told, full_disk(at):
            train(folder)
        # One line of ours, or a system error that names its file, of which the command line makes one.
        words = str(told.value) if isinstance(told.value, NasError) else f"{told.value.filename} {told.value}"
        assert "No space left on device" in words, where
        assert str(folder) in words, where
        assert not list(folder.glob("*.unfinished")), where
        for path in checkpoint.saved(folder):
            assert checkpoint.load(path)["step"] == int(path.stem[5:]), where
        assert_same(what_is_left(train(folder)), undisturbed.left, where)
        shutil.rmtree(folder)


def test_a_clock_set_back_or_jumping_changes_nothing(tmp_path, undisturbed, monkeypatch):
    at = of(undisturbed.done, "write events")[-1]
    assert killed(lambda: train(tmp_path / "back"), *at)
    real = time.time
    for hours in (5, 100_000):  # the second time it begins at 1970 or so, as of a machine without a battery
        monkeypatch.setattr(time, "time", lambda hours=hours: max(real() - 3600 * hours, 17.0))
        run = Run(SETTINGS, tmp_path / "back")
        run.tracker.writer.close()
    assert_same(what_is_left(train(tmp_path / "back")), undisturbed.left)
    names = [path.name.split(".")[3] for path in sorted((tmp_path / "back").glob("events*"))]
    assert names == sorted(set(names))
    assert len(names) == 4
    times = iter(range(2_000_000_000, 0, -7200))  # two hours back at each look
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    assert_same(what_is_left(train(tmp_path / "jumps")), undisturbed.left)
    for line in (tmp_path / "jumps" / "metrics.jsonl").read_text().splitlines():
        assert all(value >= 0 for tag, value in json.loads(line).items() if tag.startswith(TIMED))
