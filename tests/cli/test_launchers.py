"""Each launcher runs the runs of a sweep as they run alone, and a stop of the launching process stops them."""

import json
import os
import pickle
import re
import signal
import time

import pytest

from nas.cli.task import Task

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
LOCAL = ("hydra/launcher=submitit_local",)


def rows_of(folder):
    return {row["run"]: row for row in json.loads((folder / "sweep.json").read_text())["runs"]}


@pytest.mark.thorough
@pytest.mark.parametrize("launcher", [JOBLIB, LOCAL], ids=["joblib", "local"])
def test_launched_runs_equal_those_alone(nas_train, start_command, tiny, tmp_path, same_weights, launcher):
    process = start_command("-m", *tiny, "seed=1,-2,2", *launcher, "run=launched")
    outputs = tmp_path / "outputs" / "train"
    for seed in 1, 2:
        assert nas_train(*tiny, f"seed={seed}", f"run=alone{seed}").status == 0
    reason = "seed=-2: must not be negative; write for example seed=1"
    out, err = process.communicate()
    assert process.returncode == 1, err
    sweep = outputs / "launched"
    assert [row["state"] for row in rows_of(sweep).values()] == ["finished", "failed", "finished"]
    assert rows_of(sweep)["seed=-2"]["error"] == reason
    assert (sweep / "seed=-2" / "failed.txt").read_text() == f"{reason}\n"
    assert out.splitlines()[-2:] == [f"seed=-2: {reason}", f"sweep: {sweep}"]
    assert err == f"nas-train: seed=-2: {reason}\n"
    said = out.partition("Sweep\n")[0].splitlines()  # and nothing of what the runs print
    assert sorted(re.sub(r"^\d of 3  (seed=\d)  val accuracy [\d.]+%  [\d.]+ s$", r"\1", line) for line in said) == [
        "seed=1",
        "seed=2",
    ]
    if launcher == JOBLIB:
        assert "epoch 1/1" in (sweep / "seed=1" / "output.log").read_text()
    for seed in 1, 2:
        assert same_weights(sweep / f"seed={seed}", outputs / f"alone{seed}")
    assert sorted(path.name for path in sweep.glob("seed*")) == ["seed=-2", "seed=1", "seed=2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.thorough)])
def test_workers_stop_with_their_launcher_and_go_on(nas_train, start_command, stopped_at, tiny, tmp_path, number):
    words = ("-m", *tiny, "train.epochs=500", "train.save_every=10", "evaluate.every_epochs=500", "seed=1,-2")
    process = start_command(*words, *JOBLIB, "run=stopped")
    sweep = tmp_path / "outputs" / "train" / "stopped"
    while not (list(sweep.glob("seed=1/step_*")) and list(sweep.glob("seed=-2/failed.txt"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate()  # it ends with the last process that has its output
    saved = int(max((sweep / "seed=1").glob("step_*")).stem[5:])
    assert saved < 2000
    assert not list(sweep.rglob("run.owner"))
    reason = "seed=-2: must not be negative; write for example seed=1"
    assert (sweep / "seed=-2" / "failed.txt").read_text() == f"{reason}\n"
    if number == signal.SIGTERM:
        assert (process.returncode, err) == (143, f"nas-train: seed=-2: {reason}\n")
        assert re.fullmatch(r"stopped by SIGTERM; to go on: .*nas-train -m .* run=stopped", out.splitlines()[-1])
        assert [row["state"] for row in rows_of(sweep).values()] == ["unfinished", "failed"]
    with stopped_at("*/step_*", signal.SIGTERM):
        ended = nas_train(*words, "run=stopped")  # by whatever launcher
    assert ended.status == 143
    assert re.findall(r"going on at step (\d+) of 2000", ended.out) == [str(saved)]


def test_a_terminals_ctrl_c_lets_local_jobs_save(start_command, tiny, tmp_path):
    words = ("-m", *tiny, "train.epochs=500", "train.save_every=1900", "evaluate.every_epochs=500", "seed=1")
    process = start_command(*words, *LOCAL, "run=stopped", start_new_session=True)
    sweep = tmp_path / "outputs" / "train" / "stopped"
    curves = sweep / "run" / "metrics.jsonl"  # seed=1 is no sweep
    while not (curves.is_file() and curves.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # a terminal's goes to all processes there
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    assert list(curves.parent.glob("step_*"))


def test_a_job_that_slurm_stops_has_no_result(monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    task = Task("train", lambda config, folder: None)
    task.in_worker = True
    for code in 143, 130, -1, 144:  # the last two are submitit's own, to be started again
        with pytest.raises(SystemExit) as stop:
            task._stopped(SystemExit(code))
        assert stop.value.code == code


def test_workers_begin_no_run_of_a_stopped_sweep():
    task = Task("score", print)
    task.stop = signal.SIGTERM
    there = pickle.loads(pickle.dumps(task))
    assert there.in_worker
    there(None)
    assert not there.began
