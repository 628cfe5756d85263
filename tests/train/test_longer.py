"""Runs that get longer than they were begun, and runs that begin with the weights of another."""

import json
import shutil
from dataclasses import replace

import pytest
from support.runs import RUNS, assert_same, curves, finish, state_of, stop_after, tiny

from nas import checkpoint
from nas.checkpoint import load_trained
from nas.errors import CheckpointError, SettingError
from nas.settings import ChainSettings, LearnedGateSettings, TrainRunSettings
from nas.signals import Interrupted
from nas.train import Run, fit, make_report

EMA = RUNS["chain-fair-adamw-ema"]


def made(epochs, settings=EMA, log_every=11, **train):
    """Settings whose curves have a point at the end of each epoch."""
    settings = tiny(settings, epochs=epochs, **train)
    return replace(settings, track=replace(settings.track, log_every=log_every))


def stopped(settings, folder, step):
    run = Run(settings, folder)
    stop_after(run, step)
    with pytest.raises(Interrupted):
        fit(run)
    run.tracker.writer.close()


@pytest.mark.parametrize("gate", [EMA.gate, LearnedGateSettings(every=3, warmup=0.0)])
def test_a_longer_constant_run_is_that_run(gate, tmp_path):
    """Begun with 2 epochs, in the middle of which it gets a third, and at the end of which a fourth."""
    settings = [made(epochs, replace(EMA, gate=gate), schedule="constant") for epochs in (2, 3, 4)]
    whole = finish(settings[-1], tmp_path / "whole")
    stopped(settings[0], tmp_path / "run", 15)
    finish(settings[1], tmp_path / "run")
    assert_same(state_of(finish(settings[2], tmp_path / "run")), state_of(whole))
    assert curves(tmp_path / "run") == curves(tmp_path / "whole")
    stopped(settings[2], tmp_path / "shorter", 15)
    shorter = state_of(finish(settings[0], tmp_path / "shorter"))
    assert_same(shorter, state_of(finish(settings[0], tmp_path / "short")))


def test_an_extended_run_resumes_as_if_undisturbed(tmp_path):
    """Two cycles are added to a finished run, and each of them is the schedule of the first one again."""
    settings = [made(epochs, log_every=1, extend=epochs > 1) for epochs in (1, 2, 3)]
    for one in settings:
        whole = finish(one, tmp_path / "whole")
    rates = [line["overview/lr"] for line in curves(tmp_path / "whole")[0] if "overview/lr" in line]
    assert len(rates) == 33
    assert rates[:11] == rates[11:22] == rates[22:]
    finish(settings[0], tmp_path / "run")
    stopped(settings[1], tmp_path / "run", 15)
    stopped(made(2, log_every=1), tmp_path / "run", 19)  # that it is extended stands in the checkpoint now
    stopped(settings[2], tmp_path / "run", 20)  # before the second cycle has ended
    stopped(settings[2], tmp_path / "run", 30)
    assert_same(state_of(finish(settings[2], tmp_path / "run")), state_of(whole))
    assert curves(tmp_path / "run") == curves(tmp_path / "whole")


def test_lengths_of_another_run_are_refused(tmp_path):
    folder, constant = tmp_path / "cosine", {"schedule": "constant", "warmup_epochs": 0.0}
    finish(made(2), folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    rule = r"run=.*\(train\.epochs: 2 -> 3\), and the cosine schedule of a run of 3 epochs.*; add train\.extend=true "
    for settings, words in (
        (made(3), rule + "for a new cycle of the schedule from step 22, or take another run=NAME"),
        (made(1), "train.epochs=1: the run in .* has made 2; write train.epochs=2"),
        (replace(made(3, extend=True), seed=1), "seed: 0 -> 1"),
    ):
        with pytest.raises(CheckpointError, match=words):
            Run(settings, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(SettingError, match=r"train\.extend=true: there is no run in .*; leave it out"):
        Run(made(3, extend=True), tmp_path / "nothing")
    # The warm-up of a gate, and that of the learning rate, which is at most half of the run.
    finish(made(2, RUNS["chain-learned"], **constant), tmp_path / "gate")
    with pytest.raises(CheckpointError, match=r"and the learned gate of a run of 3 epochs"):
        Run(made(3, RUNS["chain-learned"], **constant), tmp_path / "gate")
    longer = Run(made(9, RUNS["chain-learned"], extend=True, **constant), tmp_path / "gate")
    longer.tracker.writer.close()
    assert longer.gate.compared(23), "a new cycle warms the gate up again"
    finish(made(1, schedule="constant"), tmp_path / "short")
    with pytest.raises(CheckpointError, match=r"and the constant schedule of a run of 2 epochs"):
        Run(made(2, schedule="constant"), tmp_path / "short")


def test_the_report_is_that_of_the_longer_run(tmp_path):
    make_report(finish(made(1), tmp_path))
    stopped(made(2, extend=True), tmp_path, 15)
    assert not (tmp_path / "report.json").exists()
    assert make_report(finish(made(2), tmp_path)).steps == 22
    assert json.loads((tmp_path / "report.json").read_text())["settings"]["train"]["epochs"] == 2


# -------------------------------------------------------------------------------------------- train.init


@pytest.mark.parametrize("ema_decay", [0.9, 0.0])
def test_a_run_begins_with_what_another_evaluates(ema_decay, tmp_path):
    finish(made(1, ema_decay=ema_decay), tmp_path / "old")
    expected = load_trained(tmp_path / "old").supernet.state_dict()
    settings = replace(made(2, tiny(), init=str(tmp_path / "old")), seed=3)
    run = Run(settings, tmp_path / "new")
    assert_same(dict(run.supernet.state_dict()), dict(expected))
    assert run.step == 0
    stop_after(run, 15)
    with pytest.raises(Interrupted):
        fit(run)
    run.tracker.writer.close()
    whole = state_of(finish(settings, tmp_path / "whole"))
    shutil.rmtree(tmp_path / "old")  # a run that goes on needs it no more
    assert_same(state_of(finish(settings, tmp_path / "new")), whole)
    assert load_trained(tmp_path / "new").digest
    states = [checkpoint.load_newest(tmp_path / name) for name in ("new", "whole")]
    assert states[0]["initial"] == states[1]["initial"] != ""
    with pytest.raises(CheckpointError, match=r"train\.init: .*old -> \)"):
        Run(replace(settings, train=replace(settings.train, init="")), tmp_path / "new")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    finish(made(1), tmp_path / "old")
    init, new = {"init": str(tmp_path / "old")}, tmp_path / "new"
    chain = ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["skip", "conv1", "conv3"])
    for settings, words in (
        (tiny(TrainRunSettings(space=chain), **init), r'Missing key.*"blocks\.2\.branches\.1\.\S+"\); take the space'),
        (tiny(TrainRunSettings(space=replace(chain, widths=[8], depths=[2])), **init), "size mismatch for stem"),
        (tiny(init=str(tmp_path)), "train.init=.*: has no checkpoint in it; name the folder of a run"),
        (tiny(init="nowhere"), "train.init=nowhere: does not exist"),
    ):
        with pytest.raises(CheckpointError, match=words):
            Run(settings, new)
        assert not new.exists()
    for train, word in (({"init": "a"}, "write checkpoint="), ({"extend": True}, "take another run=NAME")):
        with pytest.raises(SettingError, match=f"is for one run, and architecture= makes several; {word}"):
            replace(tiny(**train), architecture="0-0")
