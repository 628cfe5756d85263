"""Writers by name: CSV, the services as their documented interfaces have them, and one of your own."""

import csv
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from nas.draw import draw_grid
from nas.errors import SettingError
from nas.settings import TrackSettings
from nas.track import Writers

PNG = draw_grid(torch.rand(1, 3, 8, 10))
OWN = """
from nas.track import Writer

class Mine(Writer):
    def __init__(self, folder, step=0):
        self.file = (folder / "mine.txt").open("a", buffering=1)
        print("begins at", step, file=self.file)

    def scalars(self, step, values):
        print(step, *values.items(), file=self.file)

class Stranger:
    def __init__(self, folder, step=0): ...
"""


@pytest.fixture(autouse=True)
def _unloaded():
    """So that a test imports its own wandb and mlflow."""
    for name in "wandb", "mlflow":
        sys.modules.pop(f"nas.track.writers.{name}", None)


def killed_and_resumed(folder, name):
    """A run of 60 steps, killed at 50, whose last checkpoint is of step 20."""
    writers = Writers(folder, [name])
    writers.hparams({f"a.{k}": k for k in range(150)} | {"widths": [4, 8]}, ["a.1"])
    writers.text("config", "seed: 1")
    writers.scalars(10, {"train/loss": 1.0})
    writers.scalars(20, {"train/loss": 2.0, "slot_share/mix/3x3#0": 0.5})
    writers.image("supernet", PNG, 20)
    size = writers.flush()
    writers.scalars(30, {"train/loss": 3.0})
    writers.scalars(30, {"overview/accuracy_mean": 0.3})
    writers.scalars(50, {"train/loss": 5.0})
    writers.close()
    writers = Writers(folder, [name], step=20, metrics_bytes=size)
    writers.scalars(30, {"train/loss": 3.0})
    writers.scalars(30, {"overview/accuracy_mean": 0.3})
    writers.scalars(60, {"train/loss": 6.0, "late": 1.0})
    writers.close()


def test_csv_has_late_columns_and_each_point_once(tmp_path):
    killed_and_resumed(tmp_path, "csv")
    head, *rows = csv.reader((tmp_path / "metrics.csv").read_text().splitlines())
    assert head == ["step", "train/loss", "slot_share/mix/3x3#0", "overview/accuracy_mean", "late"]
    want = ["10,1.0,,,", "20,2.0,0.5,,", "30,3.0,,,", "30,,,0.3,", "60,6.0,,,1.0"]
    assert [",".join(row) for row in rows] == want


class FakeWandb(ModuleType):
    """What WandbWriter uses of it: a service keeps the points of a run, and drops those of steps that lie behind."""

    def __init__(self):
        super().__init__("wandb")
        self.errors = SimpleNamespace(Error=type("Error", (Exception,), {}))
        self.runs, self.Html, self.Image, self.Settings = {}, str, lambda image: image.size, dict

    def init(self, *, id, resume, dir, project, group, name, reinit, settings):
        run = self.runs.setdefault(id or f"id{len(self.runs)}", FakeWandbRun())
        run.id, run.names, run.open = id or f"id{len(self.runs) - 1}", (project, group, name), True
        assert (resume, reinit) == ("allow", "create_new")
        return run


class FakeWandbRun:
    def __init__(self):
        self.points, self.config, self.last = {}, {}, -1

    def log(self, values, step):
        if step >= self.last:
            self.points.setdefault(step, {}).update(values)
            self.last = step

    def finish(self):
        self.open = False


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    killed_and_resumed(tmp_path / "train" / "first", "wandb")
    (run,) = fake.runs.values()
    assert run.names == ("gated-nas", "train", "first")
    assert run.points[20] == {"train/loss": 2.0, "slot_share/mix/3x3#0": 0.5, "supernet": (38, 32)}
    assert run.points[60] == {"train/loss": 6.0, "late": 1.0}
    assert run.config["a.7"] == 7
    assert not run.open
    Writers(tmp_path / "train" / "first", ["wandb"]).close()
    assert len(fake.runs) == 2, "a fresh start is another run"


class FakeClient:
    """What MlflowWriter uses of it: a service keeps each point that it is given."""

    points, params, files, open = [], {}, [], {}

    def get_experiment_by_name(self, name):
        assert name == "gated-nas"

    def create_experiment(self, name):
        return "7"

    def create_run(self, experiment, run_name):
        self.open["run1"] = True
        return SimpleNamespace(info=SimpleNamespace(run_id="run1"))

    def update_run(self, run_id, status):
        self.open[run_id] = status == "RUNNING"

    def log_batch(self, run_id, metrics=(), params=()):
        assert self.open[run_id]
        assert len(metrics) <= 1000
        assert len(params) <= 100
        self.points.extend(metrics)
        self.params.update({one.key: one.value for one in params})

    def get_metric_history(self, run_id, key):
        return [point for point in self.points if point.key == key]

    def log_text(self, run_id, text, name):
        self.files.append(name)

    def log_image(self, run_id, image, name):
        self.files.append((image.size, name))

    def set_terminated(self, run_id):
        self.open[run_id] = False


def fake_mlflow():
    def named(**kinds):
        return lambda *values: SimpleNamespace(**dict(zip(kinds, values, strict=True)))

    top, entities, exceptions = (ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.exceptions"))
    top.__path__, top.MlflowClient = [], FakeClient
    entities.Metric, entities.Param = named(key=str, value=float, timestamp=int, step=int), named(key=str, value=str)
    exceptions.MlflowException = type("MlflowException", (Exception,), {})
    return {module.__name__: module for module in (top, entities, exceptions)}


@pytest.mark.parametrize("real", [False, True])
def test_mlflow_has_each_point_once(tmp_path, monkeypatch, real):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    if real:
        pytest.importorskip("mlflow")
    else:
        for name, module in fake_mlflow().items():
            monkeypatch.setitem(sys.modules, name, module)
    killed_and_resumed(tmp_path / "first", "mlflow")
    client = sys.modules["mlflow"].MlflowClient()
    run = (tmp_path / "first" / "mlflow.id").read_text()
    points = [(point.step, point.value) for point in client.get_metric_history(run, "train/loss")]
    assert sorted(points) == [(10, 1), (20, 2), (30, 3), (50, 5), (60, 6)], "50 is of the killed process"
    assert [point.value for point in client.get_metric_history(run, "slot_share/mix/3x3 0")] == [0.5]
    params = client.get_run(run).data.params if real else client.params
    assert (len(params), params["a.7"], params["widths"]) == (151, "7", "[4, 8]")


def test_wandb_itself_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    killed_and_resumed(tmp_path, "wandb")
    found = {path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert found == {(tmp_path / "wandb.id").read_text()}


def test_a_writer_of_your_own_is_called_by_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_writers_.py").write_text(OWN)
    killed_and_resumed(tmp_path, "my_writers_:Mine")
    lines = (tmp_path / "mine.txt").read_text().splitlines()
    assert lines[:2] == ["begins at 0", "10 ('train/loss', 1.0)"]
    assert "begins at 20" in lines
    assert not Writers(tmp_path, ["my_writers_:Mine"]).take_images, "nobody draws what nobody takes"
    with pytest.raises(SettingError, match=r"gave a Stranger, not a nas\.track\.Writer; derive"):
        Writers(tmp_path, ["my_writers_:Stranger"])


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    for name in "wandb", "mlflow":
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(
            SettingError, match=rf"^track.writers={name}: needs {name}; pip install 'gated-nas\[{name}\]'$"
        ):
            Writers(tmp_path / "run", [name])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("writers", [["tensorbord"], ["csv", "csv"], ["my_pkg.my"], ["my pkg:W"]])
def test_what_is_no_writer_is_refused(writers):
    remedy = r"(did you mean tensorboard\?|write for example track\.writers=\[tensorboard,csv\])"
    with pytest.raises(SettingError, match=rf"^track\.writers=.*; {remedy}"):
        TrackSettings(writers=writers)
