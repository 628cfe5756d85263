"""Sweeps: the table of their runs, runs that fail, folders, and stops; the launchers are in test_launchers.py."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import optuna
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hydra_plugins.nas_optuna import _distribution
from nas.cli.rows import Planned, Watch, read_row
from nas.config import conf_folder, register
from nas.files import write_whole

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


def optuna_storage(folder):
    return JournalStorage(JournalFileBackend(str(folder / "optuna.log")))


def rows_of(folder):
    return {row["run"]: row for row in json.loads((folder / "sweep.json").read_text())["runs"]}


def test_a_sweep_goes_on_after_a_failed_run(nas_train, tiny, tmp_path):
    ended = nas_train("-m", *tiny, "run=mixed", "seed=1,-2,3")
    assert ended.out.count("\nrun:         ") == 2
    sweep = tmp_path / "outputs" / "train" / "mixed"
    reason = "seed=-2: must not be negative; write for example seed=1"
    assert ended.status == 1
    assert ended.err == f"nas-train: seed=-2: {reason}\n"
    assert (sweep / "seed=-2" / "failed.txt").read_text() == f"{reason}\n"
    table = ended.out.split("Sweep\n")[1]
    for name in "seed=1", "seed=3":
        report = json.loads((sweep / name / "report.json").read_text())
        best = report["subnetworks"][0]
        cells = [name, "finished", best["architecture"], f"{best['val_accuracy']:.1%}", f"{best['test_accuracy']:.1%}"]
        row = rf"│ {' +│ +'.join(map(re.escape, cells))} +│ +{report['images_per_s']:,.0f} │"
        assert re.search(row, table), (row, table)
        assert rows_of(sweep)[name]["val_accuracy"] == best["val_accuracy"]
        assert rows_of(sweep)[name]["state"] == "finished"
    assert re.search(r"│ seed=-2 +│ failed +│ - +│ +- │", table)
    assert table.splitlines()[-2:] == [f"seed=-2: {reason}", f"sweep: {sweep}"]
    assert rows_of(sweep)["seed=-2"]["error"] == reason
    assert list(rows_of(sweep)) == ["seed=1", "seed=-2", "seed=3"]


def test_a_failed_runs_reason_goes_when_it_succeeds(nas_train, tiny, tmp_path):
    words = ("-m", *tiny, "run=again", "seed=1", "data.size=300,310", "hydra.sweep.subdir=size_${data.size}")
    folder = tmp_path / "outputs" / "train" / "again" / "size_300"
    folder.mkdir(parents=True)
    (folder / "step_000000004.safetensors").write_bytes(b"no checkpoint")
    ended = nas_train(*words)
    assert ended.status == 1
    assert "none of the 1 checkpoints there can be read" in (folder / "failed.txt").read_text()
    (folder / "step_000000004.safetensors").unlink()
    ended = nas_train(*words)
    assert (ended.status, ended.err) == (0, "")
    assert not list(tmp_path.rglob("failed.txt"))
    assert [row["state"] for row in rows_of(folder.parent).values()] == ["finished", "finished"]


NAME = "Net.__init__" if sys.version_info >= (3, 11) else "__init__"


def test_a_bug_in_one_run_keeps_the_users_frames(nas_train, tiny, tmp_path):
    (tmp_path / "sweep_nets.py").write_text(NETS)
    custom = ("space=custom", "space.factory=sweep_nets:Net", "space.kwargs.broken=true,false")
    ended = nas_train("-m", *tiny, *custom)  # without run=: a folder with the time in its name
    assert ended.status == 1
    reason = "ZeroDivisionError: the user's own bug, in two lines"
    [line] = [number for number, text in enumerate(NETS.splitlines(), 1) if "ZeroDivisionError" in text]
    reason = f"{NAME} in sweep_nets.py, line {line}, failed: {reason}"
    [place] = tmp_path.glob("outputs/train/*/space.kwargs.broken=True/failed.txt")
    assert f"nas-train: {place.parent.name}: {reason} (in {place})\n" in ended.err
    first, empty, *trace = place.read_text().splitlines()
    assert (first, empty) == (reason, "")
    assert re.fullmatch(rf'  File ".*sweep_nets\.py", line {line}, in __init__', trace[0])
    assert not any("nas/" in line for line in trace)
    assert f"{place.parent.name}: {reason}" in ended.out.splitlines()
    rows = rows_of(place.parent.parent)
    assert rows[place.parent.name]["error"] == reason
    assert rows["space.kwargs.broken=False"]["state"] == "finished"


WRONG = [
    (["seed=1,1"], r"seed=1: is the folder of 2 runs of the sweep; write each value once, .*"),
    (["seed=1,2", "hydra.sweep.subdir=same"], r"same: is the folder of 2 runs of the sweep; .*"),
    (["seed=1,2", "train.epoch=3"], r"train\.epoch=3: there is no setting .*"),
    (["gate=uniform,foo"], r"gate=foo: there is no such choice; .*"),
    (["seed=1,x"], r"seed=1,x: must be a whole number; .*"),
    (["seed=1,2", "hydra.launcher.n_jobs=2"], r"hydra\.launcher\.n_jobs=2: .*"),
    (["optimizer.lr=interval(0.1,1)"], r"optimizer\.lr=interval\(0\.1,1\): .*; add hydra/sweeper=nas_optuna, .*"),
]


def test_a_wrong_sweep_is_refused_before_it_starts(nas_train, tiny, tmp_path):
    for words, line in WRONG:
        ended = nas_train("-m", *tiny, *words)
        assert (ended.status, ended.out) == (1, ""), words
        assert re.fullmatch(rf"nas-train: {line}\n", ended.err), ended.err
        assert not list(tmp_path.rglob("sweep.json")), words
        assert not list(tmp_path.rglob("step_*")), words


def test_a_launcher_without_its_package_is_one_line(tmp_path):
    code = """
import sys, types
sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
sys.modules["hydra_plugins"].__path__ = []
sys.argv = ["nas-train", "-m", "hydra/launcher=joblib", "seed=1,2"]
from nas.cli.train import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    rule = "hydra/launcher=joblib: needs packages that are not installed; pip install 'gated-nas[sweep]'"
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"nas-train: {rule}\n"
    assert not list(tmp_path.iterdir())


def test_words_for_slurm_are_settings_of_its_launcher():
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
    assert read_row(run)["state"] == "unfinished"
    (tmp_path / "row.json").write_text('{"architecture": "1-0"}')
    assert (read_row(run)["state"], read_row(run)["architecture"]) == ("finished", "1-0")
    (tmp_path / "failed.txt").write_text("seed=1: why\n\ntraceback")
    assert (read_row(run)["state"], read_row(run)["error"]) == ("failed", "seed=1: why")


def test_a_row_of_an_earlier_sweep_is_no_news(tmp_path, capsys):
    run, watch = Planned("seed=1", str(tmp_path), ["seed=1"]), Watch("nas-train", 2)
    write_whole(tmp_path / "row.json", '{"val_accuracy": 0.5, "seconds": 1}')
    watch.add([run])
    watch.look()
    assert capsys.readouterr().out == ""
    write_whole(tmp_path / "row.json", '{"architecture": "0", "val_accuracy": 0.5, "seconds": 12.3}')
    watch.look()
    watch.close()
    assert capsys.readouterr().out == "1 of 2  seed=1  val accuracy 50.0%  12 s\n"


def test_a_stopped_sweep_goes_on_with_each_run(nas_train, stopped_at, tiny, tmp_path, same_weights):
    words = (*tiny, "train.epochs=2", "evaluate.every_epochs=2")
    with stopped_at("*/seed=2/step_*", signal.SIGINT):
        ended = nas_train("-m", *words, "seed=1,2,3", "run=stopped")
    sweep = tmp_path / "outputs" / "train" / "stopped"
    assert (ended.status, ended.err) == (130, "")
    states = ["finished", "unfinished", "unfinished"]
    for seed, state in enumerate(states, 1):
        assert re.search(rf"│ seed={seed} +│ {state} ", ended.out)
    assert [row["state"] for row in rows_of(sweep).values()] == states
    assert re.fullmatch(r"stopped by SIGINT; to go on: .*nas-train -m .* run=stopped", ended.out.splitlines()[-1])
    ended = nas_train("-m", *words, "seed=1,2,3", "run=stopped")
    assert (ended.status, ended.err) == (0, "")
    begun = re.findall(r"going on at step (\d+) of 8", ended.out)
    assert begun[0] == "8"  # the first is not trained again
    assert 4 <= int(begun[1]) < 8
    assert len(begun) == 2
    assert nas_train(*words, "seed=2", "run=alone").status == 0
    assert same_weights(sweep / "seed=2", Path("outputs/train/alone"))


def test_sweeps_of_other_verbs_go_on_too(command, tmp_path):
    words = ("data=synthetic", "data.image_size=8", "data.size=100", "batch_size=8", "threads=1", "architectures=2")
    ended = command("score", "-m", *words, "proxies=[nas_wot],[snip]", "run=both")
    reason = "proxies=nas_wot: is not a proxy; "
    assert ended.status == 1
    assert ended.err.startswith(f"nas-score: proxies=[nas_wot]: {reason}")
    rows = rows_of(tmp_path / "outputs" / "score" / "both")
    assert [row["state"] for row in rows.values()] == ["failed", "finished"]
    assert rows["proxies=[nas_wot]"]["error"].startswith(reason)
    best = (tmp_path / "outputs/score/both/proxies=[snip]/scores.csv").read_text().splitlines()[1]
    assert best.startswith(rows["proxies=[snip]"]["architecture"])


def test_each_ended_run_is_one_line_at_once(nas_train, tiny, tmp_path):
    ended = nas_train("-m", *tiny, "gate=uniform,fair", "seed=1,-2", "run=quiet", "track.progress=false")
    assert ended.status == 1
    lines, _, table = ended.out.partition("Sweep\n")
    sweep = tmp_path / "outputs" / "train" / "quiet"
    for line, number, gate in zip(lines.splitlines(), (1, 3), ("uniform", "fair"), strict=True):
        name = f"gate={gate},seed=1"
        accuracy = json.loads((sweep / name / "report.json").read_text())["subnetworks"][0]["val_accuracy"]
        assert re.fullmatch(rf"{number} of 4  {name}  val accuracy {accuracy:.1%}  [\d.]+ s", line), line
        assert f"│ {name} " in table
    assert re.findall(r"nas-train: gate=(\w+),seed=-2: seed=-2: must not be negative; .*\n", ended.err) == [
        "uniform",
        "fair",
    ]
    assert "seconds" not in table


def test_hydra_gets_the_best_validation_accuracy(nas_train, tiny, tmp_path, monkeypatch):
    basic = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_sweeper.BasicSweeper"]
    found, sweep = [], basic.sweep
    monkeypatch.setattr(basic, "sweep", lambda self, arguments: found.extend(sweep(self, arguments)))
    assert nas_train("-m", *tiny, "seed=1,-2", "run=two").status == 1
    report = json.loads((tmp_path / "outputs/train/two/seed=1/report.json").read_text())
    best = max(row["val_accuracy"] for row in report["subnetworks"])
    assert [job.return_value for job in found[0]] == [best, None]


SEARCH = ("hydra/sweeper=nas_optuna", "gate=uniform,fair", "optimizer.lr=tag(log,interval(0.01,1))", "seed=3")


def test_a_stopped_search_proposes_the_same(nas_train, stopped_at, tiny, tmp_path):
    outputs = tmp_path / "outputs" / "train"
    words = ("-m", *tiny, *SEARCH, "train.epochs=2", "evaluate.every_epochs=2", "track.progress=false")
    words = (*words, "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=4")
    assert nas_train(*words, "run=stopped", "hydra.sweeper.n_trials=2").status == 0
    with stopped_at("*/step_*", signal.SIGINT):
        assert nas_train(*words, "run=stopped").status == 130
    ended = nas_train(*words, "run=stopped")
    assert (ended.status, ended.err) == (0, "")
    assert [line[:6] for line in ended.out.splitlines()[:3]] == ["3 of 4", "4 of 4", "Sweep"]
    assert nas_train(*words, "run=whole").status == 0
    runs, others = (list(rows_of(outputs / name).values()) for name in ("stopped", "whole"))
    assert [row["run"] for row in runs] == [row["run"] for row in others]
    assert len({row["run"] for row in runs}) == 4
    best = max(runs, key=lambda row: row["val_accuracy"])
    assert f"\nbest: {best['run']}  val accuracy {best['val_accuracy']:.1%}\n" in ended.out
    study = optuna.load_study(storage=optuna_storage(outputs / "stopped"), study_name="stopped")
    assert [trial.value for trial in study.trials] == [row["val_accuracy"] for row in runs]
    assert "train.clip_norm: None -> 2)" in nas_train(*words, "train.clip_norm=2", "run=stopped").err


def test_a_search_goes_on_after_failed_runs(nas_train, tiny, tmp_path):
    words = ("hydra/sweeper=nas_optuna", "hydra.sweeper.n_trials=5", "seed=-1,1", "track.progress=false", "run=mixed")
    ended = nas_train("-m", *tiny, *words)
    assert ended.status == 1
    assert ended.err == "nas-train: seed=-1: seed=-1: must not be negative; write for example seed=1\n"
    assert re.search(r"^\d of 5  seed=1  val", ended.out, re.MULTILINE)
    study = optuna.load_study(storage=optuna_storage(tmp_path / "outputs/train/mixed"), study_name="mixed")
    assert {(t.params["seed"], t.state.name) for t in study.trials} == {("-1", "FAIL"), ("1", "COMPLETE")}
    assert len(study.trials) == 5


def test_a_wrong_search_is_refused_before_it_starts(nas_train, tiny, tmp_path):
    for words, line in [
        (["seed=1"], r"hydra/sweeper=nas_optuna: has nothing to search; .*"),
        (["gate=uniform,foo"], r"gate=foo: there is no such choice; .*"),
        (["optimizer.lr=interval(1,0.1)"], r"optimizer.lr=interval\(1,0.1\): cannot be searched .*; mend its bounds"),
        (["seed=1,2", "hydra.sweeper.direction=up"], r"hydra.sweeper.direction=up: is unknown; write maximize or .*"),
        (["seed=1,2", "hydra.sweeper.n_trials=0"], r"hydra.sweeper.n_trials=0: must be positive; .*"),
    ]:
        ended = nas_train("-m", *tiny, "hydra/sweeper=nas_optuna", *words)
        assert (ended.status, ended.out) == (1, ""), words
        assert re.fullmatch(rf"nas-train: {line}\n", ended.err), ended.err
        assert not list(tmp_path.rglob("step_*")), words


def test_words_of_a_search_are_optunas_distributions():
    of, text = (
        {},
        ["a=x,y", "b=range(2,11,4)", "c=int(interval(1,8))", "d=tag(log,int(interval(1,8)))", "e=interval(0,1)"],
    )
    for word in OverridesParser.create().parse_overrides([*text, "f=range(0.5,2,0.5)"]):
        of[word.key_or_group] = _distribution(word)
    assert of == {
        "a": CategoricalDistribution(("x", "y")),
        "b": IntDistribution(2, 10, step=4),
        "c": IntDistribution(1, 8),
        "d": IntDistribution(1, 8, log=True),
        "e": FloatDistribution(0, 1),
        "f": FloatDistribution(0.5, 1.5, step=0.5),
    }
