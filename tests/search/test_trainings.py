"""A training alone is a run of nas-train, goes on after a kill, and is a trial like the others."""

import csv
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from support.archives import pixels_of
from support.runs import CHAIN, finish, tiny
from support.studies import run

import nas.search.run
import nas.search.trained.trainings
from nas.checkpoint import load_trained, plain_network, saved
from nas.errors import SettingError
from nas.search import Search, SearchTarget, search
from nas.search.propose.stages import Budget, Stages
from nas.search.run import SearchBar
from nas.search.trained.trainings import Trainings, name_of
from nas.settings import (
    CellSettings,
    EvaluateSettings,
    FixedGateSettings,
    ModelSettings,
    SearchRunSettings,
    SearchSettings,
    TrackSettings,
    TrainingsSettings,
    TrainRunSettings,
)
from nas.signals import Interrupted
from nas.space import build_space

STEPS = 22
"""Of a training: 2 epochs of 11."""
DATA = tiny().data


def settings(checkpoint="", trainings=3, tensorboard=False, rungs=(), **train):
    train = TrainingsSettings(**{"epochs": 2, "batch_size": 8, **train})
    more = {"sampler": "random", "threads": 1, "progress": False, "tensorboard": tensorboard}
    how = SearchSettings(
        objectives=["trained", "flops"], trainings=trainings, rungs=[*rungs], finals=0, train=train, **more
    )
    space, data = (None, None) if checkpoint else (CHAIN, DATA)
    return SearchRunSettings(checkpoint=str(checkpoint), space=space, data=data, search=how, seed=5)


@pytest.fixture(autouse=True)
def no_verdict():
    """Finals and verdict would take 20 trainings more, and have laws of their own."""
    alone = lambda search, how, costs: Stages(search, Budget(how.trainings, 0, 0), costs)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nas.search.run, "stages_of", alone)
        yield


@pytest.fixture(scope="module")
def target():
    torch.set_num_threads(1)
    return SearchTarget.of(settings())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A supernet that was trained with settings that are nobody's default."""
    run = tiny(replace(tiny(), seed=9, optimizer=replace(tiny().optimizer, lr=0.02)), label_smoothing=0.1)
    return finish(run, tmp_path_factory.mktemp("train")).folder


def trainings(target, folder, **train):
    return Trainings(target, settings(**train).search, folder)


def stop_at(step, act):
    """For ``watch``: ``act`` after that step."""

    def watch(share):
        if round(share * STEPS) == step:
            act()

    return watch


def die():
    raise KeyboardInterrupt


def term():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_training_is_a_run_of_nas_train(target, tmp_path):
    found = trainings(target, tmp_path)((2, 1), draw=1)
    run = TrainRunSettings(
        space=CHAIN,
        data=replace(DATA, split_seed=5),
        gate=FixedGateSettings(architecture="2-1"),
        train=replace(TrainRunSettings().train, epochs=2, batch_size=8),
        evaluate=EvaluateSettings(recalibrate=False, every_epochs=2),
        track=TrackSettings(log_every=11, writers=[], progress=False),
        seed=trainings(target, tmp_path).seed_of(1),
    )
    alone = finish(run, tmp_path / "run")
    (on_val,) = alone.evaluate("val")
    points = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (found.accuracy, found.loss) == (on_val.accuracy, on_val.loss)
    assert found.train_losses == [point["train/loss"] for point in points if "train/loss" in point]
    assert found.epochs == 2
    assert found.seconds > 0
    (last, _) = saved(trainings(target, tmp_path).folder_of((2, 1), 1))
    val = load_trained(last).splits.val
    assert torch.equal(pixels_of(val), pixels_of(target.splits.val))  # though its seed is another


def test_a_draw_is_the_same_for_all(target, tmp_path):
    one, other = trainings(target, tmp_path), Trainings(replace(target, seed=6), settings().search, tmp_path)
    seeds = [some.seed_of(draw) for some in (one, other) for draw in range(3)]
    assert len({*seeds}) == 6
    assert trainings(target, tmp_path / "again").seed_of(2) == seeds[2]


@pytest.mark.parametrize(("step", "act", "stopped"), [(15, die, KeyboardInterrupt), (7, term, Interrupted)])
def test_a_stopped_training_ends_where_an_undisturbed_one_does(target, tmp_path, step, act, stopped):
    whole, some = trainings(target, tmp_path / "whole")((1, 2)), trainings(target, tmp_path)
    some.watch = stop_at(step, act)
    with pytest.raises(stopped):
        some((1, 2))
    (newest, *_) = saved(some.folder_of((1, 2), 0))
    assert newest.name == f"step_{11 if act is die else step:09d}.safetensors"  # Ctrl-C saves at once
    again = trainings(target, tmp_path)
    shares = []
    again.watch = shares.append
    found = again((1, 2))
    assert len(shares) == (11 if act is die else STEPS - step)
    assert replace(found, seconds=0) == replace(whole, seconds=0)


def test_settings_are_those_of_the_checkpoint(checkpoint, tmp_path):
    target = SearchTarget.of(settings(checkpoint))
    for train in {}, {"lr": 0.5, "batch_size": 4}:
        own = trainings(target, tmp_path, checkpoint=checkpoint, **{"batch_size": None, **train}).settings
        assert own.optimizer.lr == train.get("lr", 0.02)
        assert own.train.batch_size == train.get("batch_size", 8)
        assert own.train.label_smoothing == 0.1
        assert own.train.epochs == 2
        assert own.data.split_seed == 9
    assert trainings(SearchTarget.of(settings()), tmp_path).settings.optimizer.lr == TrainRunSettings().optimizer.lr


def test_an_inherited_training_begins_with_the_supernets_weights(checkpoint, tmp_path, monkeypatch):
    target, runs = SearchTarget.of(settings(checkpoint)), []
    monkeypatch.setattr(nas.search.trained.trainings, "fit", lambda run, until: runs.append(run) or die())
    for inherit in True, False:
        with pytest.raises(KeyboardInterrupt):
            trainings(target, tmp_path / str(inherit), checkpoint=checkpoint, inherit=inherit)((2, 1))
    wanted = plain_network(target.supernet, (2, 1), target.splits.input_shape).state_dict()
    same = [[torch.equal(run.supernet.state_dict()[name], wanted[name]) for name in wanted] for run in runs]
    learned = ["running" not in name and "num_batches" not in name for name in wanted]
    assert all(equal for equal, is_learned in zip(same[0], learned, strict=True) if is_learned)
    assert not all(same[1])
    with pytest.raises(SettingError, match=r"search\.train\.inherit=True: needs a supernet to inherit from; add"):
        trainings(SearchTarget.of(settings()), tmp_path, inherit=True)


def test_a_network_of_somebody_else_inherits_too(tmp_path, monkeypatch):
    net = "tests.support.plain_nets:PlainNet"
    space = ModelSettings(model=net, gated={"blocks.*.second": ["keep", "conv1"]}, kwargs={"num_classes": 3})
    run = finish(tiny(TrainRunSettings(space=space), epochs=1), tmp_path / "run")
    target, runs = SearchTarget.of(replace(settings(run.folder), factory=net)), []
    monkeypatch.setattr(nas.search.trained.trainings, "fit", lambda run, until: runs.append(run) or die())
    with pytest.raises(KeyboardInterrupt):
        trainings(target, tmp_path, checkpoint=run.folder, inherit=True)((1, 0))
    assert all(map(torch.equal, runs[0].supernet.parameters(), run.supernet.parameters()))


def told(outcome):
    return [(t.architecture, t.values.get("trained"), t.epochs, tuple(t.train_losses)) for t in outcome.trials]


def test_a_killed_search_goes_on_inside_a_training(tmp_path, monkeypatch):
    """And what it leaves of a training is its curve."""
    _, whole = run(settings(), tmp_path / "whole")
    killed, steps = Search(settings(), tmp_path / "killed"), []

    def watch(bar, share):
        steps.append(share)
        if len(steps) == STEPS + 5:
            term()

    monkeypatch.setattr(SearchBar, "note_share", watch)
    with pytest.raises(Interrupted):
        search(killed)
    killed.study.close()
    assert len(steps) == STEPS + 5
    monkeypatch.undo()
    begun, outcome = run(settings(), tmp_path / "killed")
    assert told(outcome) == told(whole)
    for trial in outcome.trials:
        folder = begun.measures.trainings.folder_of(trial.architecture, trial.draw)
        assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]
    assert outcome.best.values["trained"] == max(trial.values["trained"] for trial in outcome.trials)


def test_a_stopped_training_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """A search makes no step twice, and a killed one stops and promotes the same trainings."""
    wanted, steps, note = settings(trainings=9, rungs=[1]), [], SearchBar.note_share
    monkeypatch.setattr(SearchBar, "note_share", lambda bar, share: steps.append(share) or note(bar, share))
    begun, whole = run(wanted, tmp_path / "whole")
    assert len(steps) == sum(trial.epochs for trial in whole.trials) * STEPS / 2
    stopped = [trial for trial in whole.trials if trial.stopped]
    assert 2 <= len(stopped) <= 5
    best = min(whole.trials, key=lambda trial: trial.train_losses[0])
    assert not best.stopped
    assert not {*map(id, stopped)} & {*map(id, [*whole.front, whole.best])}
    for trial in whole.trials:
        left = [*saved(begun.measures.trainings.folder_of(trial.architecture, 0))]
        assert [path.name for path in left] == ["step_000000011.safetensors"] * trial.stopped
    rows = {int(row["trial"]): row for row in csv.DictReader((tmp_path / "whole" / "trials.csv").open())}
    assert [rows[t.number]["trained"] == "" for t in whole.trials] == [t.stopped for t in whole.trials]
    assert all(float(rows[t.number]["flops"]) > 0 for t in stopped)
    monkeypatch.setattr(SearchBar, "note_share", lambda bar, share: steps.append(share) or len(steps) % 40 or term())
    killed, kills = None, 0
    while killed is None:
        try:
            _, killed = run(wanted, tmp_path / "killed")
        except Interrupted:
            kills += 1
    assert kills > 2
    assert told(killed) == told(whole)


def test_a_training_that_diverges_fails_its_trial(tmp_path, monkeypatch):
    train, count = Trainings.__call__, iter(range(3))

    def some(self, *given):
        if next(count) == 1:
            self = Trainings(self._target, settings(lr=1e30).search, tmp_path)
        return train(self, *given)

    monkeypatch.setattr(Trainings, "__call__", some)
    _, outcome = run(settings(), tmp_path)
    assert sorted(bool(trial.failed) for trial in outcome.trials) == [False, False, True]
    (reason,) = (trial.failed for trial in outcome.trials if trial.failed)
    assert "the loss is nan at step" in reason
    monkeypatch.undo()
    with pytest.raises(SettingError, match=r"not one of 3 architectures could be evaluated; the last: .*the loss is"):
        run(settings(lr=1e30), tmp_path / "all")


def test_every_architecture_names_a_folder():
    space = build_space(CellSettings(), 3, 32, 10)
    names = {name_of(space, a) for a in space.sample_many(50, torch.Generator().manual_seed(0))}
    assert len(names) > 40
    assert all(name.isalnum() for name in names)
    assert name_of(build_space(CHAIN, 3, 16, 3), (2, 1)) == "2-1"


def test_trainings_take_the_runs_own_functions_if_named(tmp_path):
    own = tiny(schedule="support.plugins:schedule", loss="support.plugins:loss", epochs=1)
    folder = finish(own, tmp_path / "train").folder
    trusted = ["support.plugins:loss", "support.plugins:schedule"]
    search = settings(folder, trusted=trusted).search
    found = Trainings(SearchTarget.of(settings(folder, trusted=trusted)), search, tmp_path)
    assert (found.settings.train.schedule, found.settings.train.loss) == (own.train.schedule, own.train.loss)
    plain = Trainings(SearchTarget.of(settings()), settings().search, tmp_path / "plain")
    assert found((1, 1)).loss != plain((1, 1)).loss
