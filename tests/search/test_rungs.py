"""Halving stops what is behind, lets it go on when others are worse, and takes it for what it would have reached."""

import itertools
import random
from dataclasses import replace

import pytest

from nas.errors import SettingError
from nas.search.objectives import TRAINED, Limits
from nas.search.propose.proposers import RandomProposer, Trial
from nas.search.study import Study
from nas.search.trained.rungs import Halving, score
from nas.settings import ChainSettings, SearchSettings, TrainingsSettings
from nas.space import build_space

EPOCHS = 4
LIMITS, LIMITED = (Limits(build_space(ChainSettings(), 3, 32, 10), bounds, {}) for bounds in ({}, {"trained": 0.4}))


def losses_of(quality, epochs=EPOCHS):
    """A curve that goes down, the faster the better."""
    return tuple(2 - quality * epoch / EPOCHS for epoch in range(1, epochs + 1))


def trial(number, quality, epochs=EPOCHS, **more):
    values = {TRAINED.name: quality} if epochs == EPOCHS else {}
    found = {"epochs": epochs, "train_losses": losses_of(quality, epochs), "stopped": epochs < EPOCHS}
    return Trial(number, (number,), values, finished=True, **found, **more)


def train(halving, number, quality, trials, begun=0):
    """Train to where the rungs stop it."""
    one = Trial(number, (number,))
    for epochs in (*halving.rungs, EPOCHS):
        if epochs >= begun and not halving.goes_on(one, epochs, losses_of(quality, epochs), trials):
            break
    return trial(number, quality, epochs)


def halve(qualities, rungs=(1, 2)):
    """Trainings one after the other; returns their trials and the epochs that were trained."""
    halving, trials = Halving(rungs), []
    for number, quality in enumerate(qualities):
        trials.append(train(halving, number, quality, trials))
        while promoted := halving.promoted(trials):
            (number, begun) = promoted[0].number, promoted[0].epochs
            trials[number] = train(halving, number, qualities[number], trials, begun)
            assert trials[number].epochs > begun
    return trials


def test_the_better_half_has_passed_every_rung():
    """In whichever order they come."""
    for order in itertools.permutations(range(6)):
        trials = halve([(place + 1) / 10 for place in order])
        epochs = {round(10 * t.values[TRAINED.name]) if t.values else order[t.number] + 1: t.epochs for t in trials}
        assert all(epochs[quality] > 1 for quality in (4, 5, 6)), order
        assert epochs[6] == EPOCHS, order
        assert epochs[1] == 1 or order.index(0) == 0 or epochs[1] < EPOCHS, order


def test_the_best_is_never_stopped():
    """And trainings in random order take much less than all of their epochs."""
    for seed in range(5):
        qualities = random.Random(seed).sample(range(100), 60)
        trials = halve([quality / 100 for quality in qualities])
        assert sum(t.epochs for t in trials) < 0.75 * EPOCHS * len(trials)
        assert trials[qualities.index(max(qualities))].values
    assert [t.epochs for t in halve([0.1, 0.9, 0.5], rungs=())] == [EPOCHS] * 3


def test_a_study_stops_and_promotes_the_same(tmp_path):
    """As halving by itself does, and a process that comes later sees the same."""
    qualities = [0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.45]
    alone, halving, promoted = halve(qualities), Halving((1, 2)), 0
    assert qualities.index(0.4) in [t.number for t in alone if t.epochs == EPOCHS]  # stopped first, behind 0.5
    how = {"trials": len(qualities), "batch": 1, "definition": {}, "halving": halving, "at_once": 1}

    def opened():
        return Study(tmp_path, RandomProposer(LIMITS.space, LIMITS, 0), [TRAINED], **how)

    study = opened()
    while not study.done():
        for one in study.claim():
            begun, quality = len(one.train_losses), qualities[one.number]
            promoted += begun > 0
            found = train(halving, one.number, quality, study.trials(), begun)
            study.tell(one, found.values, 0.1, "", found.train_losses, found.stopped)
    for seen in study, opened():
        assert [(t.epochs, t.stopped) for t in seen.trials()] == [(t.epochs, t.stopped) for t in alone]
        assert [t.feasible for t in seen.trials()] == [not t.stopped for t in alone]
        assert seen.finished() == len(qualities)
    assert promoted > 0


def test_trainings_behind_the_search_are_never_stopped():
    halving = Halving((1,))
    known = [trial(number, 0.9) for number in range(4)]
    for stage in "final", "winner", "random":
        assert halving.goes_on(Trial(9, (9,), stage=stage), 1, losses_of(0.1, 1), known)
    assert not halving.goes_on(Trial(9, (9,)), 1, losses_of(0.1, 1), known)
    worse = [trial(0, 0.5, epochs=1), *(trial(number, 0.1) for number in range(1, 5))]
    assert [t.number for t in halving.promoted(worse)] == [0]
    assert halving.promoted([*worse, Trial(9, (9,), stage="final")]) == []


def test_an_estimate_is_what_the_curve_leads_to():
    halving, whole = Halving((1, 2)), [trial(number, 0.5 + number / 10) for number in range(3)]
    stopped = trial(7, 0.3, epochs=1)
    assert halving.estimates([*whole, stopped]) == {7: pytest.approx(0.3)}
    few = halving.estimates([*whole[:2], stopped])[7]  # a unit of an epoch's loss for a unit of accuracy
    assert few == pytest.approx(0.55 - (score(losses_of(0.3), 1) - score(losses_of(0.55), 1)))
    assert halving.estimates([stopped]) == {}
    assert halving.estimates([*whole, trial(8, -3.0, epochs=2)])[8] == 0.0
    assert score(losses_of(0.4), 2) == pytest.approx(1.8)
    seen = halving.estimated([*whole, replace(stopped, number=3, known={"flops": 7.0})], LIMITS)[3]
    assert (seen.values, seen.feasible, seen.weight) == ({"flops": 7.0, "trained": pytest.approx(0.3)}, True, 0.25)
    assert not halving.estimated([*whole, replace(stopped, number=3)], LIMITED)[3].feasible


def test_rungs_increase_and_stay_within_the_training():
    wrong = {
        (2, 2): r"search\.rungs=\[2, 2\]: must be epochs from 1 on that increase; write for example",
        (0, 1): r"search\.rungs=\[0, 1\]: must be epochs from 1 on",
        (1, 9): r"search\.rungs=\[1, 9\]: passes search\.train\.epochs=8; train longer, or leave",
    }
    for rungs, message in wrong.items():
        with pytest.raises(SettingError, match=message):
            SearchSettings(objectives=["trained"], rungs=[*rungs])
    with pytest.raises(SettingError, match=r"search\.rungs=\[1\]: is for the objective trained"):
        SearchSettings(rungs=[1])
    for given, epochs, rungs in (
        (None, 8, [1, 2, 4]),
        (None, 1, []),
        (None, 9, [1, 2, 4, 8]),
        ([1, 8], 8, [1]),
        ([], 8, []),
    ):
        how = SearchSettings(objectives=["trained"], rungs=given, train=TrainingsSettings(epochs=epochs))
        assert how.halved_after == rungs
