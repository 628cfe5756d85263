"""Objectives that depend on all finished trials: whoever looks, whatever was killed, the values belong together."""

import pytest
import torch
from support.studies import BIG, COSTS, die, numbered, values_of, work

from nas.errors import SettingError
from nas.rank import Prediction, add_ranks
from nas.search import summarize
from nas.search.derived import Derived, members_of_sum
from nas.search.objectives import Limits, objective
from nas.search.propose.proposers import SEARCH, Trial
from nas.search.propose.stages import FINAL, RANDOM, WINNER
from nas.search.propose.surrogate import Surrogate
from nas.search.run import build_proposer
from nas.search.study import Study
from nas.seeds import generator
from nas.settings import SearchSettings

DERIVED = Derived(BIG, [objective("loss"), objective("flops")])
PREDICTED = Derived(BIG, surrogate=True)
LEARNING = ["tpe", "nsga2"]


def open_study(folder, sampler, trials=40, first="rank_sum"):
    limits, objectives = Limits(BIG, {}, COSTS), [objective(first), objective("flops")]
    derive = DERIVED if first == "rank_sum" else Derived(BIG, surrogate=True)
    proposer = build_proposer(sampler, BIG, limits, 0, objectives)
    return Study(folder, proposer, objectives, trials=trials, batch=4, definition={}, derive=derive)


def test_the_sum_is_that_of_nas_rank():
    some = [(0, 2, 1), (2, 2, 2), (0, 0, 0), (1, 2, 0)]
    trials = [Trial(i, a, values_of(a), finished=True) for i, a in enumerate(some)]
    names = {"loss": True, "flops": False}  # whether lower predicts better: not of FLOPs, though they are minimised
    columns = [
        Prediction(name, "proxy", torch.tensor([[t.values[name] for t in trials]]), lower)
        for name, lower in names.items()
    ]
    unfinished, failed = Trial(4, (1, 1, 1)), Trial(5, (1, 1, 2), finished=True, failed="loss is nan")
    found = DERIVED([*trials, unfinished, failed])
    assert [t.values["rank_sum"] for t in found[:4]] == add_ranks(columns).values[0].tolist()
    assert found[4:] == [unfinished, failed]
    assert DERIVED([unfinished]) == [unfinished]


@pytest.mark.parametrize("sampler", LEARNING)
def test_derived_values_settle_trials_whatever_is_killed(tmp_path, sampler):
    whole = open_study(tmp_path / "whole", sampler)
    work(whole)
    for after in (5, 34):
        killed = open_study(tmp_path / str(after), sampler)
        work(killed, most=after)
        die(killed)
        again = open_study(tmp_path / str(after), sampler)
        work(again)
        assert numbered(again) == numbered(whole), after
    assert "rank_sum" not in (tmp_path / "whole" / "journal.log").read_text()


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_sampler_is_told_values_belonging_together(tmp_path, sampler):
    study = open_study(tmp_path, sampler, trials=12)
    for number in (4, 8, 12):
        work(study, most=4)
        study._proposer.tell(study.trials())
        told = [t.values[0] for t in study._proposer.study.trials if t.state.name == "COMPLETE"]
        assert told == [t.values["rank_sum"] for t in DERIVED(study.trials())], number
        assert sum(told) == number * (number + 1), "ranks of two members among so many"


def test_front_and_best_are_of_final_values(tmp_path):
    study = open_study(tmp_path, "tpe", trials=20)
    work(study)
    outcome = summarize(BIG, study.objectives, study.trials(), "rank_sum")
    values = {t.number: t.values["rank_sum"] for t in outcome.trials}
    assert sum(values.values()) == 20 * 21
    assert values[outcome.best.number] == max(values.values()) == outcome.front[0].values["rank_sum"]


def trained(number, architecture, accuracy, stage=SEARCH, epochs=8):
    values = {"trained": accuracy, "flops": float(COSTS["flops"](architecture))}
    return Trial(number, architecture, values, True, True, stage=stage, epochs=epochs)


def test_the_surrogate_learns_from_search_and_finals():
    some = BIG.sample_many(12, generator(0, "some"))
    candidates = [trained(i, a, 0.5 + sum(a) / 100 + i % 3 / 50) for i, a in enumerate(some)]
    flops = {"cost": [lambda asked: [COSTS["flops"](a) for a in asked]]}
    expected = Surrogate(BIG, flops, reference=some).fit(some, [t.values["trained"] for t in candidates])
    found = [t.values["surrogate"] for t in PREDICTED(candidates)]
    assert found == pytest.approx(expected.predict(some)[0].tolist())
    behind = [trained(12, some[0], 0.9, WINNER), trained(13, some[1], 0.1, RANDOM)]
    assert [t.values.get("surrogate") for t in PREDICTED([*candidates, *behind])] == [*found, None, None]
    final = PREDICTED([*candidates, trained(12, some[0], 0.9, FINAL)])
    assert final[0].values["surrogate"] > found[0]
    stopped = trained(12, (2, 2, 2, 2, 2, 2, 2, 2), 0.1, epochs=1)  # it is predicted, and nobody learns from it
    more = PREDICTED([*candidates, stopped])
    assert more[-1].values["surrogate"] > 0.5


def test_the_surrogate_settles_trials_whatever_is_killed(tmp_path):
    def train(study, most=None):
        while not study.done() and most != 0:
            for trial in study.claim()[:most]:
                found = trained(trial.number, trial.architecture, values_of(trial.architecture)["accuracy"])
                study.tell(trial, found.values, 0.1)
                most = None if most is None else most - 1

    whole, killed = (open_study(tmp_path / name, "tpe", 12, "surrogate") for name in ("whole", "killed"))
    train(whole)
    train(killed, most=6)
    die(killed)
    again = open_study(tmp_path / "killed", "tpe", 12, "surrogate")
    train(again)
    assert numbered(again) == numbered(whole)
    assert all("surrogate" in trial.values for trial in whole.trials())


def test_the_members_are_those_asked_for():
    def names(supernet, **how):
        return [one.name for one in members_of_sum(SearchSettings(**how), supernet)]

    assert names(True) == []
    assert names(True, rank_by="rank_sum") == ["loss", "parameters"]
    assert names(False, objectives=["naswot", "zen", "flops"], rank_by="rank_sum") == ["naswot", "zen"]
    assert names(False, objectives=["rank_sum"], sum=["zen", "flops"]) == ["zen", "flops"]
    for how, rule in (
        ({"sum": ["rank_sum"]}, r"search\.sum=rank_sum: is no predictor"),
        ({"sum": ["latency"]}, r"search\.sum=latency: is no predictor"),
        ({"sum": []}, r"search\.sum=\[\]: must name at least one"),
        ({"sum": ["trained"]}, r"search\.sum=\['trained'\]: is no objective of this search"),
        ({}, r"search\.sum=None: must be given: without a checkpoint there is no loss"),
    ):
        with pytest.raises(SettingError, match=rule):
            names(False, objectives=["rank_sum", "flops"], **how)
