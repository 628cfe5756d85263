"""A race spends full evaluations on candidates that may be among the best, and says what it knows of the others."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from support.runs import finish, tiny
from support.studies import run

from nas.checkpoint import load_trained
from nas.errors import DivergedError, SettingError
from nas.search import Evaluator, Search, search
from nas.search.evaluate.race import LOOK, Race, regress
from nas.search.pareto import front
from nas.settings import ChainSettings, SearchRunSettings, SearchSettings, SyntheticSettings, TrainRunSettings
from nas.signals import Interrupted
from nas.train import EvalResult

IMAGES = 8 * LOOK
CANDIDATES = [(i, 0) for i in range(160)]


class Planted:
    """Stands for an evaluator: per-image losses are common difficulty, some shared traits, own noise, and a quality."""

    def __init__(self, seed, images=slice(None), diverging=()):
        draws = torch.Generator().manual_seed(seed)
        traits = torch.randn(len(CANDIDATES), 6, generator=draws) @ torch.randn(6, IMAGES, generator=draws)
        own = torch.randn(len(CANDIDATES), IMAGES, generator=draws)
        quality = 0.3 * torch.rand(len(CANDIDATES), generator=draws)
        losses = 5 + torch.randn(IMAGES, generator=draws) + 0.15 * traits + 0.1 * own + quality[:, None]
        self.losses, self.diverging, self.ran = losses.double()[:, images], diverging, []
        self.images = self.losses.shape[1]

    def by_image(self, architectures):
        return {a: torch.stack([self.losses[a[0]], (self.losses[a[0]] > 5.2).double()]) for a in architectures}

    def of(self, architecture):
        loss, wrong = self.by_image([architecture])[architecture].mean(1).tolist()
        return EvalResult(architecture, 1 - wrong, loss, self.images)

    def __call__(self, architectures):
        return map(self._result, architectures)

    def _result(self, architecture):
        self.ran.append(architecture)
        if architecture in self.diverging:
            raise DivergedError("architecture", architecture, "is planted", "")
        return self.of(architecture)


def raced(seed, metric="loss", costs=(), batch=16, **how):
    """All candidates in batches: the results, and the evaluator."""
    full, known, results = Planted(seed, **how), {}, {}
    race = Race(full, Planted(seed, slice(0, LOOK)), metric, costs)
    for begin in range(0, len(CANDIDATES), batch):
        for architecture, result in race.run(CANDIDATES[begin : begin + batch], dict(known), {}):
            results[architecture] = result
            if isinstance(result, EvalResult):
                known[architecture] = result
    return results, full


def test_an_estimate_errs_by_its_standard_error():
    draws, surprises = torch.Generator().manual_seed(0), []
    for _ in range(60):
        traits = torch.randn(5, 4000, generator=draws).double()
        x = torch.randn(20, 5, generator=draws).double() @ traits + torch.randn(20, 4000, generator=draws)
        y = torch.randn(4, 5, generator=draws).double() @ traits + torch.randn(4, 4000, generator=draws)
        found, errors = regress(x[:, :400], x.mean(1), y[:, :400])
        assert errors.mean() < 0.7 * y[:, :400].std(1).mean() / 20  # the mean of the sample alone would err by that
        surprises.append((found - y.mean(1)) / errors)
    assert 0.8 < torch.stack(surprises).square().mean().sqrt() < 1.2
    mixture = 0.7 * x[:1] + 0.3 * x[1:2] + 2
    found, errors = regress(x[:, :400], x.mean(1), mixture[:, :400])
    assert found == pytest.approx(mixture.mean(1), abs=0.1 * float(mixture.std()) / 20)
    assert errors < 0.05 * mixture.std() / 20


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_best_tenth_is_that_of_full_evaluations(metric):
    for seed in range(3):
        found, full = raced(seed, metric)
        truth = {a: full.of(a) for a in CANDIDATES}
        key = (
            (lambda one: (one.loss, one.architecture)) if metric == "loss" else (lambda one: (-one.accuracy, one.loss))
        )
        best = [sorted(results.values(), key=key)[:16] for results in (truth, found)]
        assert best[0] == best[1], seed
        assert 16 <= len(full.ran) < {"loss": 64, "accuracy": 96}[metric], seed
        dropped = [one for one in found.values() if one.images == LOOK]
        assert len(dropped) == 160 - len(full.ran)
        errors = torch.tensor([one.loss - truth[one.architecture].loss for one in dropped])
        assert errors.square().mean().sqrt() < 0.5 * 1.1 / math.sqrt(LOOK)  # what a look's mean would err by: the half


def test_a_front_is_that_of_full_evaluations():
    costs = [lambda a: (37 * a[0]) % 16]
    found, full = raced(0, costs=costs)
    points = [
        [(results[a].loss, costs[0](a)) for a in CANDIDATES] for results in (found, {a: full.of(a) for a in found})
    ]
    assert sorted(front(points[0])) == sorted(front(points[1]))
    assert all(points[0][i] == points[1][i] for i in front(points[1]))
    assert len(full.ran) < 120


def test_a_race_repeats_itself_after_any_kill():
    before, _ = raced(1)
    before = {a: before[a] for a in CANDIDATES[:64]}
    together = CANDIDATES[64:80]

    def race(done):
        full = Planted(1)
        fresh = Race(full, Planted(1, slice(0, LOOK)), "loss", ())
        return dict(fresh.run(together, before, done)), full.ran

    whole, ran = race({})
    assert 0 < len(ran) < 16
    for number in range(17):
        done = dict(list(whole.items())[:number])
        again, ran_again = race(done)
        assert {a: found for a, found in again.items() if a not in done} == {
            a: found for a, found in whole.items() if a not in done
        }
        assert not {*ran_again} & {*done}


def test_a_diverging_candidate_is_reported_and_passed():
    best = min(CANDIDATES[:16], key=lambda a: Planted(2).of(a).loss)
    found, _ = raced(2, diverging=[best])
    assert isinstance(found.pop(best), DivergedError)
    assert all(isinstance(one, EvalResult) for one in found.values())
    assert len(found) == 159


@pytest.fixture
def few(monkeypatch):
    """First looks at a few images, worth it where a checkpoint has 60 of them."""
    for name, number in (("LOOK", 14), ("WORTH", 4)):
        monkeypatch.setattr(f"nas.search.measure.{name}", number)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A supernet of 27 architectures with 60 validation images."""
    torch.set_num_threads(1)
    chain = ChainSettings(widths=[4], depths=[3], strides=[1], stem_stride=1, candidates=["skip", "conv1", "conv3"])
    how = tiny(TrainRunSettings(space=chain))
    how = replace(how, data=SyntheticSettings(size=200, image_size=16, classes=3, val_fraction=0.3, crop=2))
    return finish(how, tmp_path_factory.mktemp("train")).folder


def settings(checkpoint, **how):
    how = {
        "threads": 1,
        "progress": False,
        "tensorboard": False,
        "batch": 9,
        "race": True,
        "sampler": "random",
        "trials": 27,
        **how,
    }
    return SearchRunSettings(checkpoint=str(checkpoint), search=SearchSettings(**how))


def test_a_search_races_and_says_so(checkpoint, tmp_path, few):
    trained = load_trained(checkpoint)
    alone = {j.architecture: j for j in Evaluator.of(trained)(trained.space.enumerate())}
    _, found = run(settings(checkpoint, objectives=["loss"]), tmp_path)
    assert {trial.images for trial in found.trials} == {14, 60}
    for trial in (t for t in found.trials if t.images == 60):
        one = alone[trial.architecture]
        assert (trial.values["loss"], trial.values["accuracy"]) == (one.loss, one.accuracy)
    best = sorted(alone.values(), key=lambda one: one.loss)[:3]
    assert [t.architecture for t in sorted(found.trials, key=lambda t: t.values["loss"])[:3]] == [
        one.architecture for one in best
    ]
    with (tmp_path / "trials.csv").open() as file:
        assert [int(row["images"]) for row in csv.DictReader(file)] == [t.images for t in found.trials]
    dropped = sum(t.images == 14 for t in found.trials)
    told = f"{dropped} of 27 were certainly behind after a first look at 14 images"
    assert told in (tmp_path / "report.md").read_text()


def test_a_killed_race_goes_on_as_it_would_have(checkpoint, tmp_path, few, monkeypatch):
    _, whole = run(settings(checkpoint), tmp_path / "whole")
    begun = Search(settings(checkpoint), tmp_path / "killed")
    tell = begun.study.tell

    def stop(trial, *found):
        tell(trial, *found)
        if begun.study.finished() == 13:
            raise Interrupted(2)

    monkeypatch.setattr(begun.study, "tell", stop)
    with pytest.raises(Interrupted):
        search(begun)
    begun.study.close()
    _, again = run(settings(checkpoint), tmp_path / "killed")
    assert [(t.architecture, t.values, t.images) for t in again.trials] == [
        (t.architecture, t.values, t.images) for t in whole.trials
    ]


@pytest.mark.parametrize("how", [{"race": False}, {"objectives": ["loss", "naswot"]}, {"limit": {"accuracy": 0.1}}])
def test_without_a_race_all_are_evaluated_in_full(checkpoint, tmp_path, few, how):
    if how.get("race", True):
        with pytest.raises(SettingError, match=r"search\.race=True"):
            run(settings(checkpoint, trials=4, proxy_images=8, **how), tmp_path)
    how = {**how, "race": False}
    _, found = run(settings(checkpoint, trials=4, proxy_images=8, **how), tmp_path)
    assert {t.images for t in found.trials} == {60}
