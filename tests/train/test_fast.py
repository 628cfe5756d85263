"""The fastest way of computing a step is found by its time, and a run keeps it."""

import warnings
from dataclasses import replace

import pytest
import torch
from support.runs import assert_same, finish, state_of, tiny

from nas.checkpoint import load_trained
from nas.data import Ordered, load_splits
from nas.errors import CheckpointError, NasWarning, SettingError
from nas.settings import TrainSettings, Way
from nas.space import build_space
from nas.train import Loss, Run, fit, make_report
from nas.train.fast import FEWEST_STEPS, SHORTEST, Trial, fastest
from nas.train.report import read_report


@pytest.fixture
def planted(monkeypatch):
    """``planted(seconds, loss)``: a step in a way takes ``seconds(way)`` and has ``loss(way)``: what was timed."""

    def plant(seconds, loss=lambda way: 1.0):
        timed = []

        def step(self, way, path):
            timed.append(way)
            return seconds(way), torch.tensor(loss(way))

        monkeypatch.setattr(Trial, "step", step)
        monkeypatch.setattr(Trial, "_figures", lambda self, way, path: (torch.tensor(loss(way)), torch.tensor(1.0)))
        return timed

    return plant


def found(steps=1000, **train):
    return fastest(TrainSettings(**train), Trial(None, (torch.ones(1), None), [()], Loss()), steps)


LAST = Way(channels_last=True)


def test_the_faster_way_is_taken(planted):
    planted(lambda way: 0.08 if way.channels_last else 0.1)
    assert found() == (LAST, ["channels_last: true (a step takes 80 ms; 100 ms with false)"])
    planted(lambda way: 0.099 if way.channels_last else 0.1)
    assert found() == (Way(), ["channels_last: false (a step takes 100 ms; 99 ms with true)"])
    assert found(channels_last=True) == (LAST, [])


def test_another_result_is_not_taken(planted):
    planted(lambda way: 0.05 if way.channels_last else 0.1, lambda way: 1.0 + 0.01 * way.channels_last)
    assert found() == (Way(), ["channels_last: false (a step takes 100 ms; 50 ms with true, but another result)"])


def test_bf16_is_taken_only_if_it_is_allowed(planted):
    planted(lambda way: 0.01 if way.precision == "bf16" else 0.1, lambda way: 1.1 if way.precision == "bf16" else 1.0)
    assert found()[0].precision == "float32"
    assert found(precision="auto")[0].precision == "bf16"


def test_compiling_is_tried_in_long_runs_alone(planted):
    timed = planted(lambda way: (0.01 if way.compile == "branches" else 0.1) * (0.9 if way.channels_last else 1))
    assert found(steps=5_000)[0] == LAST
    assert all(way.compile == "none" for way in timed)
    assert found(steps=100_000)[0] == Way(channels_last=True, compile="branches")


def test_a_slow_setting_is_warned_of_with_the_figures(planted):
    planted(lambda way: 0.6 if way.precision == "bf16" else 0.1)
    said = "train.precision=bf16 is slow here: a step takes 600 ms, and 100 ms with train.precision=float32"
    with pytest.warns(NasWarning, match=said):
        assert found(precision="bf16", steps=SHORTEST)[0].precision == "bf16"
    planted(lambda way: 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found(precision="bf16", channels_last=True, compile="branches")


def test_another_result_of_a_setting_is_warned_of(planted):
    planted(lambda way: 0.1, lambda way: 1.01 if way.compile == "branches" else 1.0)
    with pytest.warns(NasWarning, match=r"train.compile=branches gives another loss or gradient here than"):
        assert found(compile="branches")[0].compile == "branches"


def test_none_and_short_runs_time_nothing(planted):
    timed = planted(lambda way: 0.1)
    assert found(fast="none") == found(steps=FEWEST_STEPS - 1) == (Way(), [])
    assert timed == []


def test_a_trial_leaves_all_as_it_was():
    settings = tiny()
    splits = load_splits(settings.data, 0)
    space = build_space(settings.space, *splits.sizes)
    supernet = space.supernet()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    batch = Ordered(splits.train, splits.mean, splits.std, 8)[0]
    trial = Trial(supernet, batch, list(space.enumerate())[-2:], Loss())
    assert trial.same(Way(), LAST)
    trial.race(trial.seconds(Way()), trial.seconds(LAST), spend_s=1e-6)
    assert_same(supernet.state_dict(), before)
    assert all(p.grad is None for p in supernet.parameters())


def test_a_run_goes_on_as_it_began(tmp_path, planted):
    settings = tiny(epochs=20, save_every=100)
    timed = planted(lambda way: 0.08 if way.channels_last else 0.1)
    fit(Run(settings, tmp_path / "chosen"), until=100)
    timed.clear()
    run = finish(settings, tmp_path / "chosen")
    assert timed == []
    by_hand = replace(settings, train=replace(settings.train, fast="none", channels_last=True))
    given = finish(by_hand, tmp_path / "given")
    assert_same(state_of(run), state_of(given))
    make_report(run)
    assert read_report(tmp_path / "chosen").timings == "channels_last: true (a step takes 80 ms; 100 ms with false)"
    assert load_trained(tmp_path / "chosen").settings.train.way == LAST
    with pytest.raises(CheckpointError, match=r"train.channels_last: auto -> False"):
        Run(replace(settings, train=replace(settings.train, channels_last=False)), tmp_path / "chosen")


def test_what_is_neither_true_false_nor_auto_is_refused():
    for wrong in ("last", 2, None):
        with pytest.raises(SettingError, match=r"train.channels_last=.* must be auto, true or false"):
            TrainSettings(channels_last=wrong)
