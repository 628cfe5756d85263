"""A study evaluates each architecture once, whoever dies, and a seed settles which."""

import itertools
import statistics
import warnings
from time import process_time

import pytest

import nas.journal
from nas.errors import CheckpointError, SettingError
from nas.files import write_all
from nas.search.objectives import Limits, objective
from nas.search.proposers import build_proposer
from nas.search.study import Study
from nas.settings import ChainSettings
from nas.space import build_space

SPACE = build_space(ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["skip", "conv1", "conv3"]))
"""27 architectures."""
BIG = build_space(ChainSettings(widths=[4], depths=[8], strides=[1], candidates=["skip", "conv1", "conv3"]))
COSTS = {"flops": lambda architecture: 100 + 10 * sum(architecture)}
SAMPLERS = ["random", "tpe", "nsga2", "exhaustive"]


def values_of(architecture):
    """Loss and FLOPs that are at odds, and an accuracy."""
    loss = sum((2 - x) * (i + 1) for i, x in enumerate(architecture)) / 10
    return {"loss": loss, "flops": float(COSTS["flops"](architecture)), "accuracy": 1 / (1 + loss)}


def open_study(folder, sampler="random", trials=None, space=SPACE, limit=None, seed=0, batch=4, definition=None):
    limits = Limits(space, limit or {}, COSTS)
    objectives = [objective("loss"), objective("flops")]
    definition = {"seed": seed, "search": {"sampler": sampler}} if definition is None else definition
    proposer = build_proposer(sampler, space, limits, seed, objectives)
    return Study(folder, proposer, objectives, limits, trials=trials, batch=batch, definition=definition)


def work(study, most=None):
    """Evaluate to the end, or ``most`` trials; returns the architectures in the order of evaluation."""
    done = []
    while not study.done() and len(done) != most:
        for trial in sorted(study.claim(), key=lambda t: t.architecture):
            if len(done) == most:
                return done
            study.tell(trial, values_of(trial.architecture), 0.01)
            done.append(trial.architecture)
    return done


def die(study):
    """What the kernel does for a process that is killed."""
    study._worker._lock.release()


def numbered(study):
    return [(t.number, t.architecture, t.values) for t in study.trials()]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_architecture_is_evaluated_once_and_a_space_that_is_used_up_ends_the_search(tmp_path, sampler):
    study = open_study(tmp_path, sampler, trials=None if sampler == "exhaustive" else 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = work(study)
    assert sorted(done) == list(SPACE.enumerate())
    assert study.used_up
    assert [t.architecture for t in study.trials()] == list(dict.fromkeys(t.architecture for t in study.trials()))


def test_exhaustive_is_lexicographic(tmp_path):
    study = open_study(tmp_path, "exhaustive", trials=10)
    work(study)
    assert [t.architecture for t in study.trials()] == list(itertools.islice(SPACE.enumerate(), 10))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_number_of_trials_is_what_was_asked_for(tmp_path, sampler):
    study = open_study(tmp_path, sampler, trials=10)
    assert len(work(study)) == 10
    assert not study.used_up
    assert study.finished() == len(study.trials()) == 10


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_seed_settles_the_trials(tmp_path, sampler):
    found = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        study = open_study(tmp_path / folder, sampler, trials=64, space=BIG, seed=seed, batch=16)
        work(study)
        found.append(numbered(study))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_sampler_learns_from_the_trials(tmp_path, sampler):
    study = open_study(tmp_path, sampler, trials=160, space=BIG, batch=16)
    work(study)
    # A FLOP lowers the loss the more, the later its slot: on the front the late slots have the high choices.
    slopes = [sum(x * (i - 3.5) for i, x in enumerate(t.architecture)) for t in study.trials()]
    assert statistics.mean(slopes[96:]) > statistics.mean(slopes[:16]) + 2


@pytest.mark.parametrize("after", [0, 1, 29, 34])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, sampler, after):
    whole = open_study(tmp_path / "whole", sampler, trials=40, space=BIG)
    work(whole)
    killed = open_study(tmp_path / "killed", sampler, trials=40, space=BIG)
    first = work(killed, most=after)
    die(killed)
    again = open_study(tmp_path / "killed", sampler, trials=40, space=BIG)
    second = work(again)
    assert numbered(again) == numbered(whole)
    assert len(first) + len(second) == 40
    assert not {*first} & {*second}


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_search_that_was_killed_while_it_proposed_goes_on_as_if_it_had_not_been(tmp_path, sampler, monkeypatch):
    whole = open_study(tmp_path / "whole", sampler, trials=40, space=BIG, batch=8)
    work(whole)
    killed = open_study(tmp_path / "killed", sampler, trials=40, space=BIG, batch=8)
    work(killed, most=16)
    monkeypatch.setattr(nas.journal, "write_all", lambda file, text: write_all(file, text[: len(text) // 2]))
    killed.claim()
    monkeypatch.undo()
    assert len(killed.trials()) % 8
    die(killed)
    again = open_study(tmp_path / "killed", sampler, trials=40, space=BIG, batch=8)
    work(again)
    assert numbered(again) == numbered(whole)


def test_what_a_living_worker_has_claimed_is_left_to_it_and_taken_over_when_it_dies(tmp_path):
    first, second = open_study(tmp_path, trials=8), open_study(tmp_path, trials=8)
    mine, others = first.claim(), second.claim()
    assert not {t.architecture for t in mine} & {t.architecture for t in others}
    for trial in others:
        second.tell(trial, values_of(trial.architecture), 0.1)
    assert second.claim() == []
    assert not second.done()
    first.tell(mine[0], values_of(mine[0].architecture), 0.1)
    die(first)
    assert second.claim() == mine[1:]
    assert second.claim() == mine[1:]


def test_what_a_worker_has_claimed_and_left_is_its_own_to_claim_again(tmp_path):
    study = open_study(tmp_path, trials=8)
    first = study.claim()
    study.tell(first[0], values_of(first[0].architecture), 0.1)
    assert study.claim()[:3] == first[1:]
    assert len(work(study)) == 7
    assert study.done()


def test_a_worker_that_said_goodbye_leaves_its_claims(tmp_path):
    first, second = open_study(tmp_path, trials=4), open_study(tmp_path, trials=4)
    mine = first.claim()
    first.close()
    assert second.claim() == mine
    second.close()
    assert not list((tmp_path / "workers").iterdir())


def test_more_trials_may_be_asked_for_later(tmp_path):
    work(open_study(tmp_path, "tpe", trials=6))
    study = open_study(tmp_path, "tpe", trials=11)
    assert len(work(study)) == 5
    assert len({t.architecture for t in study.trials()}) == 11


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("bound", [100, 110, 130])
def test_what_a_limit_on_a_cost_forbids_is_never_proposed(tmp_path, sampler, bound):
    study = open_study(tmp_path, sampler, trials=1000 if sampler != "exhaustive" else None, limit={"flops": bound})
    allowed = [a for a in SPACE.enumerate() if COSTS["flops"](a) <= bound]
    assert sorted(work(study)) == allowed
    assert study.used_up


def test_a_draw_within_a_limit_is_uniform(tmp_path):
    allowed = [a for a in SPACE.enumerate() if COSTS["flops"](a) <= 120]
    firsts = [open_study(tmp_path / str(i), trials=1, seed=i, limit={"flops": 120}).claim()[0] for i in range(200)]
    counts = [sum(t.architecture == a for t in firsts) for a in allowed]
    assert sum(counts) == 200
    assert sum((n - 20) ** 2 / 20 for n in counts) < 28  # chi-square, 9 degrees of freedom, 1 in 1000


def test_an_impossible_limit_names_the_smallest_that_can_be_reached(tmp_path):
    rule = r"search\.limit\.flops=99: no architecture .* is that small; the smallest has 100; allow at least 100"
    with pytest.raises(SettingError, match=rule):
        open_study(tmp_path, limit={"flops": 99})


def test_two_limits_at_odds_end_the_search(tmp_path):
    costs = {"flops": lambda a: sum(a), "parameters": lambda a: 6 - sum(a)}
    limits = Limits(SPACE, {"flops": 2, "parameters": 2}, costs)
    proposer = build_proposer("tpe", SPACE, limits, 0, [objective("loss")])
    study = Study(tmp_path, proposer, [objective("loss")], limits, trials=5, batch=4, definition={})
    assert study.claim() == []
    assert study.used_up
    assert study.done()


def test_a_limit_on_what_is_measured_makes_a_trial_infeasible_and_tells_the_sampler(tmp_path):
    study = open_study(tmp_path, "nsga2", trials=27, limit={"accuracy": 0.5, "loss": 0.8})
    work(study)
    for trial in study.trials():
        assert trial.feasible == (trial.values["accuracy"] >= 0.5 and trial.values["loss"] <= 0.8)
    study._proposer.tell(study.trials())
    told = [t for t in study._proposer.study.trials if t.state.name == "COMPLETE"]
    for trial, known in zip(study.trials(), told, strict=True):
        assert known.constraints == pytest.approx(
            {"accuracy": 0.5 - trial.values["accuracy"], "loss": trial.values["loss"] - 0.8}
        )
    assert any(t.feasible for t in study.trials())
    assert not all(t.feasible for t in study.trials())


def test_a_failed_trial_keeps_its_reason_and_is_not_tried_again(tmp_path):
    study = open_study(tmp_path, "tpe", trials=27)
    while claimed := study.claim():
        for trial in claimed:
            failed = "loss is nan" if trial.architecture[0] == 1 else ""
            told = study.tell(trial, values_of(trial.architecture), 0.1, failed)
            assert (told.finished, told.feasible, told.values == {}) == (True, not failed, bool(failed))
    reasons = {t.architecture: t.failed for t in open_study(tmp_path, "tpe", trials=27).trials()}
    assert len(reasons) == 27
    assert all(reason == ("loss is nan" if a[0] == 1 else "") for a, reason in reasons.items())


def test_a_journal_of_another_search_is_refused_with_the_difference(tmp_path):
    work(open_study(tmp_path, trials=4))
    before = (tmp_path / "journal.log").read_bytes()
    rule = r"was begun with other settings \(search\.sampler: random -> tpe; seed: 0 -> 1\); take another run=NAME"
    with pytest.raises(CheckpointError, match=rule):
        open_study(tmp_path, "tpe", seed=1)
    assert (tmp_path / "journal.log").read_bytes() == before


@pytest.mark.speed
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trial_costs_at_most_20_ms_besides_its_evaluation(tmp_path, sampler):
    study = open_study(tmp_path, sampler, trials=500, space=BIG, batch=16)
    began = process_time()
    assert len(work(study)) == 500
    assert (process_time() - began) / 500 < 0.020
