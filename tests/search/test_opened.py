"""A supernet that was trained with several open branches a slot is searched over just those architectures."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.references import Slots
from support.runs import CHAIN, finish, tiny
from support.studies import run

from nas.checkpoint import load_trained
from nas.cost import PathFlops, PathParameters
from nas.cost.same_cost import other_networks, same_cost
from nas.errors import ArchitectureError, CheckpointError, SettingError
from nas.nn import indices_of
from nas.score.run import ScoreRun
from nas.search import Evaluator, Search
from nas.search.objectives import Limits, objective
from nas.search.propose.proposers import Trial
from nas.search.propose.surrogate import one_hot
from nas.search.propose.surrogate_proposer import SurrogateProposer
from nas.search.run import build_proposer
from nas.settings import (
    ChainSettings,
    ScoreSettings,
    SearchRunSettings,
    SearchSettings,
    SyntheticSettings,
    TrainRunSettings,
    UniformGateSettings,
)
from nas.space import build_space, in_order

SPACE = Slots(3, 1, 4).opened([1, 2])
LOSS = objective("loss")


def flops(architecture):
    return 100 + sum((slot + 1) * (branch + 2) for slot, e in enumerate(architecture) for branch in indices_of(e))


@pytest.mark.parametrize("sampler", ["random", "exhaustive", "tpe", "nsga2", "surrogate"])
def test_each_set_within_limits_is_proposed_once(sampler):
    limits = Limits(SPACE, {"flops": 125}, {"flops": flops})
    expected = [a for a in SPACE.enumerate() if flops(a) <= 125]
    assert 10 < len(expected) < SPACE.size
    asked = (
        SurrogateProposer(SPACE, limits, 0, LOSS, {"flops": flops})
        if sampler == "surrogate"
        else build_proposer(sampler, SPACE, limits, 0, [LOSS])
    )
    trials = []
    while (trial := asked.ask(len(trials), {t.architecture for t in trials})) is not None:
        values = {"loss": -float(flops(trial.architecture)), "flops": float(flops(trial.architecture))}
        trials.append(Trial(trial.number, trial.architecture, values, True, True, notes=trial.notes))
        if len(trials) % 4 == 0:
            asked.tell(trials)
    found = [trial.architecture for trial in trials]
    assert len(found) == len(expected)
    assert sorted(found, key=in_order) == expected
    assert sampler != "exhaustive" or found == expected


def test_a_regression_sees_each_open_branch():
    seen = one_hot(SPACE, list(SPACE.enumerate()))
    assert seen.shape == (SPACE.size, 3 + 4)
    assert len(np.unique(seen, axis=0)) == SPACE.size
    assert ((seen > 0).sum(axis=1) == [len(indices_of(a)) + len(indices_of(c)) for a, _, c in SPACE.enumerate()]).all()


@pytest.mark.parametrize("merge", ["sum", "concat"])
@pytest.mark.parametrize("numbers", [[2], [1, 3]])
def test_costs_of_several_branches_add_up(merge, numbers):
    candidates = ["conv3", "skip", "sep5", "mb2_k3"]
    settings = ChainSettings(widths=[4, 6], depths=[1, 1], strides=[1, 2], candidates=candidates, merge=merge)
    space = build_space(settings, image_size=16).opened(numbers)
    supernet = space.supernet()
    for cost in PathFlops(space, supernet, (3, 16, 16)), PathParameters(space, supernet):
        found = {a: cost(a) for a in space.enumerate()}
        assert all(cost.count(a) == value for a, value in list(found.items())[:: 1 + len(found) // 20])
        assert cost.smallest()[1] == min(found.values())
        assert cost.largest()[1] == max(found.values())
        assert found[cost.largest()[0]] == cost.largest()[1]
        best = cost.largest()[0]
        others = other_networks(space, best, same_cost([cost], best), 0)
        assert set(others) == {a for a in found if a != best and abs(found[a] - found[best]) <= 0.05 * found[best]}


def test_a_search_without_a_checkpoint_opens_what_it_is_told(tmp_path):
    how = SearchSettings(threads=1, progress=False, objectives=["flops"], sampler="exhaustive", tensorboard=False)
    data = SyntheticSettings(size=64, image_size=16, classes=3)
    settings = SearchRunSettings(space=CHAIN, data=data, search=how, open=2)
    _, outcome = run(settings, tmp_path)
    assert {trial.architecture for trial in outcome.trials} == set(
        itertools.product([(0, 1), (0, 2), (1, 2)], repeat=2)
    )
    with pytest.raises(CheckpointError, match="was begun with other settings"):
        Search(replace(settings, open=[1, 2]), tmp_path)
    with pytest.raises(SettingError, match=r"^open=\[5\]: no slot of space chain has 5 branches; the largest has 3"):
        Search(replace(settings, open=5), tmp_path / "other")
    with pytest.raises(SettingError, match=r"open=\[2\]: is for a search without a checkpoint"):
        replace(settings, checkpoint="run")
    scored = ScoreRun(ScoreSettings(space=CHAIN, data=data, open=2, batch_size=8, progress=False), tmp_path / "score")
    assert len(scored.wanted) == 9


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.set_num_threads(1)
    gate = UniformGateSettings(open=[1, 2])
    return finish(tiny(TrainRunSettings(space=CHAIN, gate=gate)), tmp_path_factory.mktemp("train")).folder


def test_a_searched_checkpoint_brings_its_open_gates(checkpoint, tmp_path):
    how = {"threads": 1, "progress": False, "batch": 8}
    search = SearchSettings(**how, sampler="exhaustive", objectives=["loss", "flops"], tensorboard=False)
    _, outcome = run(SearchRunSettings(checkpoint=str(checkpoint), search=search), tmp_path)
    trained = load_trained(checkpoint)
    assert trained.space.size == len(outcome.trials) == 36
    alone = Evaluator.of(trained)([(0, (1, 2))])
    by_name = {trained.space.encode(t.architecture): t.values for t in outcome.trials}
    assert by_name["0-1+2"]["loss"] == pytest.approx(next(alone).loss, rel=1e-6)
    assert "skip, conv1+conv3" in (tmp_path / "trials.csv").read_text()
    assert "conv1+conv3" in (tmp_path / "optuna.log").read_text()
    with pytest.raises(ArchitectureError, match="opens 3 of slot slot0"):
        trained.space.decode("0+1+2-0")
