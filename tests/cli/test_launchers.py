"""Each launcher runs the runs of a sweep as they run alone, and a stop of the launching process stops them."""

import json
import os
import pickle
import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas.cli.task import Failed, Task
from nas.errors import SettingError

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
LOCAL = ("hydra/launcher=submitit_local",)


def rows_of(folder):
    return {row["run"]: row for row in json.loads((folder / "sweep.json").read_text())["runs"]}


def test_launched_runs_equal_those_alone_and_one_that_fails_is_told(
    nas_train, start_command, tiny, tmp_path, same_weights
):
    words = ("-m", *tiny, "seed=1,-2,2")
    processes = {
        "joblib": start_command(*words, *JOBLIB, "run=joblib"),
        "local": start_command(*words, *LOCAL, "run=local"),
    }
    outputs = tmp_path / "outputs" / "train"
    for seed in 1, 2:
        assert nas_train(*tiny, f"seed={seed}", f"run=alone{seed}").status == 0
    reason = "seed=-2: must not be negative; write for example seed=1"
    for name, process in processes.items():
        out, err = process.communicate()
        assert process.returncode == 1, err
        assert [row["state"] for row in rows_of(outputs / name).values()] == ["finished", "failed", "finished"]
        assert rows_of(outputs / name)["seed=-2"]["error"] == reason
        assert (outputs / name / "seed=-2" / "failed.txt").read_text() == f"{reason}\n"
        assert out.splitlines()[-2:] == [f"seed=-2: {reason}", f"sweep: {outputs / name}"]
        assert err in ("", f"nas-train: seed=-2: {reason}\n")  # that of submitit's jobs lies in .submitit
        for seed in 1, 2:
            assert same_weights(outputs / name / f"seed={seed}", outputs / f"alone{seed}")
        assert sorted(path.name for path in (outputs / name).glob("seed*")) == ["seed=-2", "seed=1", "seed=2"]


@contextmanager
def slow_checkpoints():
    """Half a second for each of them, so that a stop comes before the end on any machine."""
    replace = os.replace

    def replace_slowly(beside, path):
        replace(beside, path)
        if Path(path).name.startswith("step_"):
            time.sleep(0.5)

    os.replace = replace_slowly
    yield


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_stop_with_the_process_that_launched_them_and_go_on_later(nas_train, start, tiny, tmp_path, number):
    words = ("-m", *tiny, "train.epochs=25", "train.save_every=2", "evaluate.every_epochs=25", "seed=1,2")  # 100 steps
    forked = (*JOBLIB, "hydra.launcher.backend=multiprocessing")
    process = start(*words, *forked, "run=stopped", injected=slow_checkpoints)
    sweep = tmp_path / "outputs" / "train" / "stopped"
    runs = [sweep / f"seed={seed}" for seed in (1, 2)]
    while not all(list(run.glob("step_*")) for run in runs):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate()
    while any((run / "run.lock").exists() for run in runs):  # until the workers have ended
        time.sleep(0.01)
    saved = [int(max(run.glob("step_*")).stem[5:]) for run in runs]
    assert max(saved) < 100
    if number == signal.SIGTERM:
        assert (process.returncode, err) == (143, "")
        assert re.fullmatch(r"stopped by SIGTERM; to go on: .*nas-train -m .* run=stopped", out.splitlines()[-1])
        assert {row["state"] for row in rows_of(sweep).values()} == {"unfinished"}
    ended = nas_train(*words, "run=stopped")  # by whatever launcher
    assert (ended.status, ended.err) == (0, "")
    assert re.findall(r"going on at step (\d+) of 100", ended.out) == [str(step) for step in saved]
    assert [row["state"] for row in rows_of(sweep).values()] == ["finished", "finished"]


def test_a_terminals_ctrl_c_lets_local_jobs_save(start_command, tiny, tmp_path):
    words = ("-m", *tiny, "train.epochs=500", "train.save_every=1900", "evaluate.every_epochs=500", "seed=1")
    process = start_command(*words, *LOCAL, "run=stopped", start_new_session=True)
    sweep = tmp_path / "outputs" / "train" / "stopped"
    curves = sweep / "seed=1" / "metrics.jsonl"
    while not (curves.is_file() and curves.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # a terminal's goes to all processes there
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    assert list(curves.parent.glob("step_*"))


def test_a_job_that_slurm_stops_has_no_result_that_could_be_taken_for_its_last(monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    task = Task("train", lambda config, folder: None)
    task.in_worker = True
    for code in 143, 130, -1, 144:  # the last two are submitit's own, to be started again
        with pytest.raises(SystemExit) as stop:
            task._stopped(SystemExit(code))
        assert stop.value.code == code


def test_a_worker_begins_no_run_of_a_stopped_sweep_and_raises_what_its_user_can_mend():
    task = Task("score", print)
    task.stop = signal.SIGTERM
    there = pickle.loads(pickle.dumps(task))
    assert there.in_worker
    there(None)
    assert not there.began
    with pytest.raises(Failed, match="seed=-1: must not be negative; write seed=1"):
        there._fail(str(SettingError("seed", -1, "must not be negative", "write seed=1")))
