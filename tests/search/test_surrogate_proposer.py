"""Proposals of the surrogate: within the limits, never twice, the same after a stop, better than random ones."""

import pytest

from nas.errors import SettingError
from nas.search import Search, search
from nas.search.objectives import Limits, objective
from nas.search.propose.proposers import RandomProposer, Trial
from nas.search.propose.surrogate_proposer import LARGEST, SurrogateProposer, fill_of, largest, spread
from nas.search.study import Study
from nas.settings import ChainSettings, SearchRunSettings, SearchSettings, SyntheticSettings
from nas.space import build_space
from tests.support.studies import BIG, CHAIN, COSTS, SPACE, die, numbered, work

LOSS = objective("loss")
FLOPS = {"flops": COSTS["flops"]}
WIDE = build_space(ChainSettings(depths=[12], **CHAIN))
"""531,441 architectures: more than are looked at."""


def proposer(space=SPACE, limit=None, seed=0, **how):
    limits = Limits(space, {} if limit is None else {"flops": limit}, FLOPS)
    return SurrogateProposer(space, limits, seed, LOSS, FLOPS, {"cost": [lambda found: [*map(sum, found)]]}, **how)


def study(folder, asked, trials=None, batch=4):
    return Study(folder, asked, [LOSS], trials=trials, batch=batch, definition={})


def found_by(folder, asked, trials):
    one = study(folder, asked, trials)
    work(one)
    one.close()
    return one.trials()


def test_each_network_is_proposed_once_within_limits(tmp_path):
    trials = found_by(tmp_path, proposer(limit=140), None)
    expected = {a for a in SPACE.enumerate() if FLOPS["flops"](a) <= 140}
    assert len(trials) == len(expected)
    assert {trial.architecture for trial in trials} == expected


def test_a_killed_study_proposes_the_same(tmp_path):
    uninterrupted = study(tmp_path / "a", proposer(BIG), 16)
    work(uninterrupted)
    killed = study(tmp_path / "b", proposer(BIG), 16)
    work(killed, most=13)
    die(killed)
    resumed = study(tmp_path / "b", proposer(BIG), 16)
    work(resumed)
    assert numbered(resumed) == numbered(uninterrupted)


def test_the_design_has_each_choice_and_the_largest():
    for limit in (None, 190):
        asked = proposer(BIG, limit)
        design = asked.design
        assert len({*design}) == LARGEST + fill_of(BIG)
        assert all({a[slot] for a in design} == {0, 1, 2} for slot in range(len(BIG.slots)))
        most = max(FLOPS["flops"](a) for a in asked.pool)
        assert any(FLOPS["flops"](a) == most for a in design)
        assert all(limit is None or FLOPS["flops"](a) <= limit for a in design)


def test_a_spread_design_lies_apart():
    pool = list(SPACE.enumerate())
    found = spread(SPACE, pool, largest(pool, FLOPS, 1), 2, seed=0)
    assert found[0] == (2, 2, 2)
    assert all(len({a[slot] for a in found}) == 3 for slot in range(3))


def test_a_large_space_is_searched_within_limits(tmp_path):
    asked = proposer(WIDE, 260, costly=True)
    trials = found_by(tmp_path, asked, 20)
    assert len({trial.architecture for trial in trials}) == 20
    costs = [FLOPS["flops"](trial.architecture) for trial in trials]
    assert max(costs) == 260  # the largest of the limit
    assert len(asked.pool) < 400


def test_it_finds_what_is_neither_large_nor_random():
    space, peak, found = build_space(ChainSettings(depths=[6], **CHAIN)), (1, 0, 1, 1, 0, 1), {}
    limits = Limits(space, {"flops": 160}, FLOPS)
    for name, asked in {"surrogate": proposer(space, 160), "random": RandomProposer(space, limits, 0)}.items():
        trials = []
        while len(trials) < 24:
            asked.tell(trials)
            for number in range(len(trials), len(trials) + 4):
                trial = asked.ask(number, {t.architecture for t in trials})
                apart = sum(x != y for x, y in zip(trial.architecture, peak, strict=True))
                trials.append(Trial(number, trial.architecture, {"loss": float(apart)}, True, True))
        found[name] = min(trial.values["loss"] for trial in trials)
    assert found["surrogate"] == 0 < found["random"]


def test_failed_trials_are_survived():
    asked = proposer()
    failed = [Trial(i, a, finished=True, failed="loss is nan") for i, a in enumerate(asked.design)]
    asked.tell(failed)
    trial = asked.ask(len(failed), {t.architecture for t in failed})
    assert trial.architecture not in asked.design


def settings(**how):
    chain = ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["skip", "conv1", "conv3"])
    how = SearchSettings(sampler="surrogate", objectives=["naswot"], progress=False, tensorboard=False, **how)
    return SearchRunSettings(space=chain, data=SyntheticSettings(size=200), search=how)


def test_a_search_by_surrogate_ends_in_a_report(tmp_path):
    run = Search(settings(trials=14, proxy_images=8, features=["choices", "pairs", "cost", "synflow"]), tmp_path)
    outcome = search(run)
    run.study.close()
    assert len(outcome.trials) == 14
    assert (tmp_path / "report.md").exists()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"trials": 9}, "search.trials=9: must be at least 10: the initial design of the surrogate takes 10;"),
        ({"features": ["choices", "magic"]}, "search.features=magic: is an unknown feature;"),
        ({"features": ["supernet"]}, "search.features=supernet: needs a trained supernet;"),
    ],
)
def test_what_cannot_be_proposed_is_refused(tmp_path, how, said):
    with pytest.raises(SettingError) as refused:
        Search(settings(**how), tmp_path)
    assert str(refused.value).startswith(said)


def test_features_need_the_surrogate():
    with pytest.raises(SettingError, match="is for the surrogate"):
        SearchSettings(features=["choices"])
    with pytest.raises(SettingError, match="must name more than pairs"):
        SearchSettings(sampler="surrogate", features=["pairs"])
