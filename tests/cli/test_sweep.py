"""Sweeps: the table of their runs, runs that fail, folders, and stops; the launchers are in test_launchers.py."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from nas.cli.rows import Planned, read_row
from nas.config import conf_folder, register

NETS = """
from torch import nn
from nas.nn import GatedSum

class Net(nn.Module):
    def __init__(self, broken):
        super().__init__()
        if broken:
            raise ZeroDivisionError("the user's own bug,\\nin two lines")
        self.mix = GatedSum([nn.AvgPool2d(4), nn.MaxPool2d(4)])
        self.head = nn.Linear(192, 10)

    def forward(self, x, architecture):
        return self.head(self.mix(x, architecture[0]).flatten(1))
"""


def rows_of(folder):
    return {row["run"]: row for row in json.loads((folder / "sweep.json").read_text())["runs"]}


def test_the_other_runs_go_on_when_one_fails_and_the_table_says_why(nas_train, tiny, tmp_path):
    ended = nas_train("-m", *tiny, "run=mixed", "seed=1,-2,3")
    sweep = tmp_path / "outputs" / "train" / "mixed"
    reason = "seed=-2: must not be negative; write for example seed=1"
    assert ended.status == 1
    assert ended.err == f"nas-train: seed=-2: {reason}\n"
    assert (sweep / "seed=-2" / "failed.txt").read_text() == f"{reason}\n"
    table = ended.out.split("Sweep: the subnetwork that is best on validation pictures")[1]
    for name in "seed=1", "seed=3":
        report = json.loads((sweep / name / "report.json").read_text())
        best = report["subnetworks"][0]
        cells = [name, best["architecture"], f"{best['val_accuracy']:.1%}", f"{best['test_accuracy']:.1%}"]
        row = rf"│ {' +│ +'.join(map(re.escape, cells))} +│ +{report['images_per_s']:,.0f} │"
        assert re.search(row, table), (row, table)
        assert rows_of(sweep)[name]["val_accuracy"] == best["val_accuracy"]
        assert rows_of(sweep)[name]["state"] == "finished"
    assert re.search(r"│ seed=-2 +│ failed +│ +- │", table)
    assert table.splitlines()[-2:] == [f"seed=-2: {reason}", f"sweep: {sweep}"]
    assert rows_of(sweep)["seed=-2"]["error"] == reason
    assert list(rows_of(sweep)) == ["seed=1", "seed=-2", "seed=3"]


def test_the_reason_goes_away_when_the_same_run_succeeds(nas_train, tiny, tmp_path):
    words = ("-m", *tiny, "run=again", "seed=1", "data.size=300,310", "hydra.sweep.subdir=size_${data.size}")
    folder = tmp_path / "outputs" / "train" / "again" / "size_300"
    folder.mkdir(parents=True)
    (folder / "step_000000004.pt").write_bytes(b"no checkpoint")
    ended = nas_train(*words)
    assert ended.status == 1
    assert "none of the 1 checkpoints there can be read" in (folder / "failed.txt").read_text()
    (folder / "step_000000004.pt").unlink()
    ended = nas_train(*words)
    assert (ended.status, ended.err) == (0, "")
    assert not list(tmp_path.rglob("failed.txt"))
    assert [row["state"] for row in rows_of(folder.parent).values()] == ["finished", "finished"]


def test_a_bug_in_one_run_keeps_its_traceback_and_the_others(nas_train, tiny, tmp_path):
    (tmp_path / "sweep_nets.py").write_text(NETS)
    custom = ("space=custom", "space.factory=sweep_nets:Net", "space.kwargs.broken=true,false")
    ended = nas_train("-m", *tiny, *custom)  # without run=: a folder with the time in its name
    assert ended.status == 1
    reason = "ZeroDivisionError: the user's own bug, in two lines"
    [place] = tmp_path.glob("outputs/train/*/space.kwargs.broken=True/failed.txt")
    assert f"nas-train: {place.parent.name}: {reason} (in {place})\n" in ended.err
    first, empty, *trace = place.read_text().splitlines()
    assert (first, empty, trace[0]) == (reason, "", "Traceback (most recent call last):")
    assert any(re.search(r"sweep_nets\.py.*in __init__", line) for line in trace)
    assert f"{place.parent.name}: {reason}" in ended.out.splitlines()
    rows = rows_of(place.parent.parent)
    assert rows[place.parent.name]["error"] == reason
    assert rows["space.kwargs.broken=False"]["state"] == "finished"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seed=1,1"], r"seed=1: is the folder of 2 runs of the sweep; write each value once, .*"),
        (["seed=1,2", "hydra.sweep.subdir=same"], r"same: is the folder of 2 runs of the sweep; .*"),
        (["seed=1,2", "train.epoch=3"], r"train\.epoch=3: there is no setting .*"),
        (["gate=uniform,foo"], r"gate=foo: there is no such choice; .*"),
        (["seed=1,x"], r"seed=1,x: must be a whole number; .*"),
        (["seed=1,2", "hydra.launcher.n_jobs=2"], r"hydra\.launcher\.n_jobs=2: .*"),
    ],
)
def test_what_concerns_the_whole_sweep_is_one_line_before_anything_starts(nas_train, tiny, tmp_path, words, line):
    ended = nas_train("-m", *tiny, *words)
    assert (ended.status, ended.out) == (1, "")
    assert re.fullmatch(rf"nas-train: {line}\n", ended.err), ended.err
    assert not list(tmp_path.rglob("sweep.json"))
    assert not list(tmp_path.rglob("*.pt"))


def test_a_launcher_whose_package_is_missing_is_one_line(tmp_path):
    code = """
import sys, types
sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
sys.modules["hydra_plugins"].__path__ = []
sys.argv = ["nas-train", "-m", "hydra/launcher=joblib", "seed=1,2"]
from nas.cli.train import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    rule = "hydra/launcher=joblib: needs packages that are not installed; pip install 'gated-nas[sweep]'"
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"nas-train: {rule}\n"
    assert not list(tmp_path.iterdir())


def test_the_words_for_slurm_are_settings_of_its_launcher():
    words = ["partition=gpu", "timeout_min=240", "gpus_per_node=1", "cpus_per_task=4", "array_parallelism=8"]
    words += ["max_num_timeout=3", "signal_delay_s=120"]
    register()
    with initialize_config_dir(conf_folder(), version_base="1.3"):
        overrides = ["hydra/launcher=submitit_slurm", *(f"hydra.launcher.{word}" for word in words), "seed=1"]
        launcher = compose("train", overrides, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith(".SlurmLauncher")
    for word in words:
        key, value = word.split("=")
        assert str(launcher[key]) == value
    from submitit import SlurmExecutor  # it takes a setting that it does not know without a word, or not at all

    given = {word.split("=")[0] for word in words} - {"max_num_timeout"}
    given = {"time" if key == "timeout_min" else key for key in given}
    assert given <= set(SlurmExecutor._valid_parameters()) | {"time"}


def test_a_row_is_read_from_a_runs_folder(tmp_path):
    run = Planned("seed=1", str(tmp_path), ["seed=1"])
    assert read_row(run).state == "unfinished"
    rows = [{"architecture": "1-0", "val_accuracy": 0.5, "test_accuracy": 0.25, "name": "scratch"}]
    (tmp_path / "retrain.json").write_text(json.dumps({"rows": rows}))  # of architecture=1-0
    found = read_row(run)
    assert (found.state, found.architecture, found.images_per_s) == ("finished", "1-0", None)
    for damaged in "", "[]", '{"subnetworks": []}', '{"subnetworks": [{"architecture": "0"}]}':
        (tmp_path / "report.json").write_text(damaged)
        found = read_row(run)
        assert found.state == "failed"
        assert found.error.endswith("report.json: is damaged; delete it and start the same command again")


LONG = ("data=synthetic", "data.size=300", "train.threads=1", "train.epochs=30", "train.save_every=10")
LONG = (*LONG, "evaluate.every_epochs=15", "track.tensorboard=false")
"""120 steps, a checkpoint every 10."""


def wait_for(pattern, folder, process):
    while not list(folder.rglob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_sweep_that_is_stopped_goes_on_with_each_run(nas_train, start, tmp_path, same_weights):
    words = ("-m", *LONG, "seed=1,2")
    process = start(*words, "run=stopped")
    wait_for("seed=2/step_*.pt", tmp_path, process)  # the first is finished
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    sweep = tmp_path / "outputs" / "train" / "stopped"
    assert (process.returncode, err) == (130, "")
    assert re.search(r"│ seed=1 +│ \d ", out)
    assert re.search(r"│ seed=2 +│ unfinished ", out)
    assert [row["state"] for row in rows_of(sweep).values()] == ["finished", "unfinished"]
    assert re.fullmatch(r"stopped by SIGINT; to go on: .*nas-train -m .* run=stopped", out.splitlines()[-1])
    step = int(max((sweep / "seed=2").glob("step_*.pt")).stem[5:])
    ended = nas_train(*words, "run=stopped")
    assert (ended.status, ended.err) == (0, "")
    # The first is not trained again.
    assert re.findall(r"going on at step (\d+) of 120", ended.out) == ["120", str(step)]
    assert nas_train(*LONG, "seed=2", "run=alone").status == 0
    assert same_weights(sweep / "seed=2", Path("outputs/train/alone"))
