"""``scripts/loop.py``: bare steps beside a run leave it as it was, and each epoch has its seconds."""

import importlib.util
from pathlib import Path

import torch

from nas.settings import ChainSettings, SyntheticSettings, TrackSettings, TrainRunSettings, TrainSettings
from nas.train import Run, fit

PATH = Path(__file__).resolve().parents[2] / "scripts" / "loop.py"
SETTINGS = TrainRunSettings(
    space=ChainSettings(widths=[4], depths=[2], strides=[1]),
    data=SyntheticSettings(size=500, image_size=8),
    train=TrainSettings(epochs=2, threads=1, batch_size=32),
    track=TrackSettings(writers=[], progress=False),
)


def load():
    spec = importlib.util.spec_from_file_location("loop_script", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_between_bare_steps_is_the_same_run(tmp_path, monkeypatch):
    script, runs = load(), []
    monkeypatch.setattr(script, "PIECE", 5)
    monkeypatch.setattr(script, "make_report", runs.append)
    seconds, total, images = script.measure(SETTINGS, tmp_path / "timed")
    plain = Run(SETTINGS, tmp_path / "plain")
    fit(plain)
    ours, theirs = runs[0].supernet.state_dict(), plain.supernet.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert images == 32 * plain.steps_per_epoch
    assert [len(each) for each in seconds.values()] == [2, 2, 2]
    assert all(0 < steps < whole for steps, whole in zip(seconds["steps"], seconds["all"], strict=True))
    assert sum(seconds["all"]) < total
    names = [sorted(path.name for path in folder.glob("*.safetensors")) for folder in tmp_path.iterdir()]
    assert names[0] == names[1]  # it saves no more often
