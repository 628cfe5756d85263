"""Behind a search by trainings come finals, then the winner beside random networks of its cost."""

import json
from statistics import fmean

import pytest
from support.processes import FORK, TIMEOUT_S

from nas.cost.same_cost import other_networks, same_cost
from nas.errors import SettingError
from nas.search.objectives import Limits, objective
from nas.search.propose.proposers import Trial
from nas.search.propose.stages import FINAL, RANDOM, SEARCH, WINNER, finalists, stages_of, winner
from nas.search.run import build_proposer
from nas.search.study import Study
from nas.seeds import derive
from nas.settings import ChainSettings, SearchSettings
from nas.space import build_space

CHAIN = {"widths": [4], "strides": [1], "candidates": ["skip", "conv1", "conv3"]}
SPACE = build_space(ChainSettings(depths=[4], **CHAIN))
"""81 architectures."""
SMALL = build_space(ChainSettings(depths=[2], **CHAIN))
COSTS = {"flops": lambda architecture: 100 + 10 * sum(architecture)}


def accuracy(architecture, draw):
    """More FLOPs are better, early ones more so; one training is off by up to 0.1."""
    noise = derive(draw, *architecture) % 1000 / 1000 - 0.5
    return 0.5 + sum(x * (4 - i) for i, x in enumerate(architecture)) / 100 + noise / 5


def open_study(folder, space=SPACE, sampler="random", limit=None, seed=0, **how):
    settings = SearchSettings(sampler=sampler, objectives=["trained", "flops"], limit=limit or {}, **how)
    limits, objectives = Limits(space, settings.limit, COSTS), [objective("trained"), objective("flops")]
    stages = stages_of(build_proposer(sampler, space, limits, seed, objectives), settings, COSTS)
    definition = {"seed": seed, "sampler": sampler}
    more = {"trials": None, "batch": settings.proposed_at_once, "definition": definition}
    study = Study(folder, stages, objectives, **more)
    study.stages = stages
    return study


def work(study, most=None, fails=lambda trial: False):
    """Train to the end, or ``most`` times."""
    done = []
    while not study.done() and len(done) != most:
        for trial in study.claim():
            if len(done) == most:
                break
            values = {"flops": float(COSTS["flops"](trial.architecture))}
            values["trained"] = accuracy(trial.architecture, trial.draw)
            study.tell(trial, values, 0.01, "loss is nan" if fails(trial) else "")
            done.append(trial.number)
    return done


def of_stage(study, stage):
    return [trial for trial in study.trials() if trial.stage == stage]


def first_of(study):
    return winner(study.trials(), study.stages.budget.finals, study.stages.costs)


def test_finals_are_the_best_on_a_fresh_seed(tmp_path):
    changed = 0
    for seed in range(4):
        study = open_study(tmp_path / str(seed), seed=seed)
        assert len(work(study)) == 20 + 4 + 16
        candidates, finals = of_stage(study, SEARCH), of_stage(study, FINAL)
        ranked = sorted(candidates, key=lambda t: (-t.values["trained"], t.values["flops"]))
        assert [t.architecture for t in finals] == [t.architecture for t in ranked[:4]]
        assert {t.draw for t in candidates} == {0}
        assert {t.draw for t in finals} == {1}
        means = {t.architecture: fmean(accuracy(t.architecture, draw) for draw in (0, 1)) for t in finals}
        assert first_of(study) == max(means, key=means.get)
        changed += first_of(study) != ranked[0].architecture
    assert 0 < changed < 4


def test_the_verdict_pairs_winner_and_randoms_on_fresh_seeds(tmp_path):
    study = open_study(tmp_path)
    work(study)
    winners, randoms = of_stage(study, WINNER), of_stage(study, RANDOM)
    assert [t.draw for t in winners] == [t.draw for t in randoms] == [*range(2, 10)]
    assert {t.architecture for t in winners} == {first_of(study)}
    cost, distinct = COSTS["flops"](first_of(study)), {t.architecture for t in randoms}
    assert len(distinct) == 8
    assert first_of(study) not in distinct
    assert all(abs(COSTS["flops"](a) - cost) <= 0.05 * cost for a in distinct)


def test_stopped_trainings_and_broken_limits_do_not_win(tmp_path):
    study = open_study(tmp_path, limit={"trained": 0.55}, trainings=14)
    work(study, fails=lambda trial: trial.stage == SEARCH and trial.number % 2)
    finals = of_stage(study, FINAL)
    known = {t.architecture: t for t in of_stage(study, SEARCH)}
    assert len(finals) == min(4, sum(t.feasible for t in known.values()))
    assert all(known[t.architecture].feasible for t in finals)
    estimated = Trial(0, (2, 2, 2, 2), {"trained": 0.9}, feasible=True, finished=True, stopped=True)
    assert finalists([estimated, *of_stage(study, SEARCH)], 4, COSTS) == [t.architecture for t in finals]


def test_a_finalist_that_fails_does_not_win(tmp_path):
    study = open_study(tmp_path)
    work(study, fails=lambda trial: trial.stage == FINAL and trial.number != 22)
    assert first_of(study) == study.trials()[22].architecture
    study = open_study(tmp_path / "all")
    work(study, fails=lambda trial: trial.stage == FINAL)
    assert first_of(study) is None
    assert len(study.trials()) == 24  # and there is nothing to compare


def test_of_equals_the_cheaper_one_wins(tmp_path):
    study = open_study(tmp_path, space=SMALL, sampler="exhaustive")
    while not study.done():
        for trial in study.claim():
            study.tell(trial, {"trained": 0.5, "flops": float(COSTS["flops"](trial.architecture))}, 0.1)
    assert [t.architecture for t in of_stage(study, FINAL)] == [(0, 0), (0, 1), (1, 0), (0, 2)]
    assert first_of(study) == (0, 0)


def test_a_space_that_is_used_up_still_has_finals(tmp_path):
    for sampler in ("random", "tpe", "exhaustive"):
        study = open_study(tmp_path / sampler, space=SMALL, sampler=sampler)
        assert len(work(study)) == 9 + 4 + 16
        randoms = [t.architecture for t in of_stage(study, RANDOM)]
        assert sorted(randoms) == sorted(set(SMALL.enumerate()) - {first_of(study)})  # 8 networks, none of its cost


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_seed_settles_all_stages_whatever_is_killed(tmp_path, sampler):
    def trained(study):
        return [(t.number, t.architecture, t.stage, t.draw, t.values) for t in study.trials()]

    whole, other = (open_study(tmp_path / f"seed{seed}", sampler=sampler, seed=seed) for seed in (0, 1))
    work(whole)
    work(other)
    assert trained(whole) != trained(other)
    for after in (7, 20, 22, 31):
        killed = open_study(tmp_path / str(after), sampler=sampler)
        assert len(work(killed, most=after)) == after
        killed.claim()  # and dies in it
        killed.close()
        again = open_study(tmp_path / str(after), sampler=sampler)
        assert len(work(again)) == 40 - after
        assert trained(again) == trained(whole), after


def test_processes_share_finals_and_the_verdict(tmp_path):
    def share(together):
        study = open_study(tmp_path)
        together.wait(TIMEOUT_S)
        done = work(study)
        study.close()
        (tmp_path / f"done-{study._worker.name}").write_text(json.dumps(done))

    together = FORK.Barrier(2)
    processes = [FORK.Process(target=share, args=(together,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_S)
        assert process.exitcode == 0
    done = [json.loads(path.read_text()) for path in tmp_path.glob("done-*")]
    assert sorted(number for each in done for number in each) == [*range(40)]
    study = open_study(tmp_path)
    assert [t.stage for t in study.trials()] == [SEARCH] * 20 + [FINAL] * 4 + [WINNER, RANDOM] * 8


def test_a_process_with_nothing_to_do_waits_for_the_finals(tmp_path):
    first, second = open_study(tmp_path), open_study(tmp_path)
    work(first, most=20)
    mine, others = first.claim(), second.claim()
    assert [t.stage for t in mine + others] == [FINAL, FINAL]  # one each
    work(second, most=3)
    assert second.claim() == []
    assert not second.done()


def test_a_network_is_left_out_under_every_name():
    class Mirrored(type(SPACE)):
        def canonical(self, architecture):
            return min(architecture, architecture[::-1])

    space = build_space(ChainSettings(depths=[4], **CHAIN))
    space.__class__ = Mirrored
    found = other_networks(space, (2, 1, 0, 0), same_cost([*COSTS.values()], (2, 1, 0, 0)), 0)
    assert len(found) == len({*found}) == 7
    assert all(sum(a) == 3 and a <= a[::-1] and a != (0, 0, 1, 2) for a in found)


def test_random_networks_match_what_is_limited():
    """Or else the costs that are objectives, or else the FLOPs."""
    costs = {"flops": sum, "parameters": max}
    for objectives, limit, matched in (
        (["trained", "flops"], {"parameters": 2, "latency": 9}, ["parameters"]),
        (["trained"], {"parameters": 2, "flops": 9}, ["parameters", "flops"]),
        (["trained", "parameters"], {}, ["parameters"]),
        (["trained", "latency"], {"latency": 9}, ["flops"]),
    ):
        search = build_proposer("random", SPACE, Limits(SPACE, {}, costs), 0, [])
        stages = stages_of(search, SearchSettings(objectives=objectives, limit=limit), costs)
        assert list(stages.costs) == matched
        assert str(stages.budget) == "40 trainings: 20 to search, 4 finals, 16 for the verdict"


def test_rare_networks_of_a_large_space_are_found():
    """Uniform samples of half a million networks hit these 78 about three times."""
    space = build_space(ChainSettings(depths=[12], **CHAIN))
    first = (2, *[0] * 11)
    found = other_networks(space, first, same_cost([*COSTS.values()], first), 0)
    assert {sum(a) for a in found} == {2}
    assert len(found) == len({*found}) == 77
    usual = tuple([1] * 12)
    assert len(other_networks(space, usual, same_cost([*COSTS.values()], usual), 0)) > 1000


def test_a_budget_without_candidates_is_refused():
    rule = r"search\.trainings=4: leaves fewer candidates than search\.finals=4, .*; allow at least 8, or lower"
    with pytest.raises(SettingError, match=rule):
        SearchSettings(objectives=["trained"], trainings=4)
