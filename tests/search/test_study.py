"""A study evaluates each architecture once, whichever process dies, and a seed settles which."""

import json
import statistics
import warnings
from zlib import crc32

import pytest
from support.processes import FORK, TIMEOUT_S
from support.references import Slots
from support.studies import BIG, COSTS, SPACE, die, numbered, values_of, work

import nas.journal
from nas.errors import CheckpointError, SettingError
from nas.files import write_all
from nas.search.objectives import Limits, objective
from nas.search.run import build_proposer
from nas.search.study import Study


class Named(Slots):
    """27 architectures, 13 networks: behind choice 0 nothing is read, and the last two slots may change places."""

    def canonical(self, architecture):
        return (architecture[0], *sorted(architecture[1:])) if architecture[0] else (0, 0, 0)


NAMED = Named(3, 3, 3)
LEARNING = ["tpe", "nsga2"]
SAMPLERS = ["random", *LEARNING, "exhaustive"]


def open_study(
    folder, sampler="random", trials=None, space=SPACE, limit=None, seed=0, batch=4, costs=COSTS, at_once=None
):
    limits, objectives = Limits(space, limit or {}, costs), [objective("loss"), objective("flops")]
    proposer = build_proposer(sampler, space, limits, seed, objectives)
    definition = {"seed": seed, "sampler": sampler}
    more = {"trials": trials, "batch": batch, "definition": definition, "at_once": at_once}
    return Study(folder, proposer, objectives, **more)


def test_each_architecture_is_evaluated_once(tmp_path):
    """As many as asked for, and more when asked again, until none is left."""
    for sampler in SAMPLERS:
        done = []
        for trials in (6, 11, 1000):
            study = open_study(tmp_path / sampler, sampler, trials)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                done += work(study)
            assert study.used_up is (trials == 1000)
            assert study.finished() == len({*done}) == len(done) == min(trials, 27), sampler
        assert sorted(done) == sorted(t.architecture for t in study.trials()) == list(SPACE.enumerate()), sampler
    assert [t.architecture for t in study.trials()] == list(SPACE.enumerate())  # exhaustive is in order


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_sampler_learns_from_the_trials(tmp_path, sampler):
    study = open_study(tmp_path, sampler, trials=160, space=BIG, batch=16)
    work(study)
    # A FLOP lowers the loss the more, the later its slot: on the front the late slots have the high choices.
    slopes = [sum(x * (i - 3.5) for i, x in enumerate(t.architecture)) for t in study.trials()]
    assert statistics.mean(slopes[96:]) > statistics.mean(slopes[:16]) + 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_settles_the_trials_whatever_is_killed(tmp_path, sampler, monkeypatch):
    whole, other = (open_study(tmp_path / f"seed{seed}", sampler, trials=40, space=BIG, seed=seed) for seed in (0, 1))
    work(whole)
    work(other)
    assert (numbered(whole) == numbered(other)) is (sampler == "exhaustive")
    for after in (0, 1, 34, "in a batch of proposals"):
        killed = open_study(tmp_path / str(after), sampler, trials=40, space=BIG)
        first = work(killed, most=after if isinstance(after, int) else 32)
        if not isinstance(after, int):
            monkeypatch.setattr(nas.journal, "write_all", lambda file, text: write_all(file, text[: len(text) // 2]))
            killed.claim()
            monkeypatch.undo()
            assert len(killed.trials()) % 4
        die(killed)
        again = open_study(tmp_path / str(after), sampler, trials=40, space=BIG)
        again.claim()
        assert len(again.trials()) % 4 == 0, after  # a batch that was begun is completed, and no more
        second = work(again)
        assert numbered(again) == numbered(whole), after
        assert len(first) + len(second) == 40, after
        assert not {*first} & {*second}, after


def test_a_workers_claims_are_exclusive_while_it_lives(tmp_path):
    first, second = open_study(tmp_path, trials=8), open_study(tmp_path, trials=8)
    mine, others = first.claim(), second.claim()
    assert not {t.architecture for t in mine} & {t.architecture for t in others}
    for trial in others:
        second.tell(trial, values_of(trial.architecture), 0.1)
    assert second.claim() == []
    assert not second.done()
    first.tell(mine[0], values_of(mine[0].architecture), 0.1)
    assert first.claim() == mine[1:]  # what it has left it may claim again
    die(first)
    assert second.claim() == mine[1:]
    second.close()  # it leaves, and gives up its claims
    assert not list((tmp_path / "workers").iterdir())
    third = open_study(tmp_path, trials=8)
    assert third.claim() == mine[1:]
    assert len(work(third)) == 3
    assert third.done()


def test_processes_share_the_trials_of_a_batch(tmp_path):
    first, second = (open_study(tmp_path, trials=8, at_once=1) for _ in range(2))
    claimed = [study.claim() for study in (first, second, first)]
    assert [[t.number for t in trials] for trials in claimed] == [[0], [1], [0]]
    second.tell(claimed[1][0], values_of(claimed[1][0].architecture), 0.1)
    assert [t.number for t in second.claim()] == [2]
    assert len(second.trials()) == 4  # another batch begins when all of this one are taken
    die(first)
    assert [t.number for t in second.claim()] == [0]
    while not second.done():
        for trial in second.claim():
            second.tell(trial, values_of(trial.architecture), 0.1)
    whole = open_study(tmp_path / "whole", trials=8)
    work(whole)
    assert numbered(second) == numbered(whole)


def test_two_processes_evaluate_each_architecture_once(tmp_path):
    def share(sampler, folder, together):
        study = open_study(folder, sampler, trials=1000)
        together.wait(TIMEOUT_S)
        done = work(study)
        study.close()
        (folder / f"done-{len(done)}-{study._worker.name}").write_text(json.dumps(done))

    for sampler in ("exhaustive", "tpe"):
        folder, together = tmp_path / sampler, FORK.Barrier(2)
        processes = [FORK.Process(target=share, args=(sampler, folder, together)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(TIMEOUT_S)
            assert process.exitcode == 0
        done = [tuple(a) for path in folder.glob("done-*") for a in json.loads(path.read_text())]
        assert sorted(done) == list(SPACE.enumerate()), sampler
        trials = open_study(folder, sampler).trials()
        assert [t.number for t in trials] == list(range(27)), sampler
        assert all(t.feasible and t.values == values_of(t.architecture) for t in trials), sampler


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_cost_limit_holds_for_all_proposals(tmp_path, sampler):
    for bound in (100, 110, 130):
        study = open_study(tmp_path / str(bound), sampler, 1000, limit={"flops": bound})
        assert sorted(work(study)) == [a for a in SPACE.enumerate() if COSTS["flops"](a) <= bound], bound
        assert study.used_up


def test_a_draw_within_a_limit_is_uniform():
    limits = Limits(SPACE, {"flops": 120}, COSTS)
    draws = [build_proposer("random", SPACE, limits, seed, []).ask(0, set()).architecture for seed in range(200)]
    counts = [draws.count(a) for a in SPACE.enumerate() if limits.within(a)]
    assert sum(counts) == 200
    assert sum((n - 20) ** 2 / 20 for n in counts) < 28  # chi-square, 9 degrees of freedom, 1 in 1000


def test_an_impossible_limit_names_the_smallest_possible():
    rule = r"search\.limit\.flops=99: no architecture .* is that small; the smallest has 100; allow at least 100"
    with pytest.raises(SettingError, match=rule):
        Limits(SPACE, {"flops": 99}, COSTS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_several_limits_hold_at_once(tmp_path, sampler):
    limit = {"flops": 130, "parameters": 6}
    allowed = [a for a in SPACE.enumerate() if all(COSTS[name](a) <= bound for name, bound in limit.items())]
    study = open_study(tmp_path, sampler, 1000, limit=limit)
    assert sorted(work(study)) == allowed
    assert study.used_up
    assert 3 < len(allowed) < 20


def test_limits_that_exclude_each_other_are_refused():
    with pytest.raises(SettingError) as caught:
        Limits(SPACE, {"flops": 110, "parameters": 5}, COSTS)
    flops = min(COSTS["flops"](a) for a in SPACE.enumerate() if COSTS["parameters"](a) <= 5)
    parameters = min(COSTS["parameters"](a) for a in SPACE.enumerate() if COSTS["flops"](a) <= 110)
    rule = "no architecture of space chain keeps both"
    remedy = f"allow at least {flops} flops, or at least {parameters} parameters"
    assert str(caught.value) == f"search.limit={{flops: 110, parameters: 5}}: {rule}; {remedy}"
    for bounds in ({"flops": flops, "parameters": 5}, {"flops": 110, "parameters": parameters}):
        assert list(Limits(SPACE, bounds, COSTS).allowed())


def test_a_draw_of_a_network_counts_no_names():
    limits = Limits(NAMED, {}, {})
    draws = [build_proposer("random", NAMED, limits, seed, []).ask(0, set()).architecture for seed in range(260)]
    counts = [draws.count(network) for network in NAMED.networks()]
    assert (len(counts), sum(counts)) == (13, 260)
    assert sum((n - 20) ** 2 / 20 for n in counts) < 33  # chi-square, 12 degrees of freedom, 1 in 1000


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_network_is_one_trial_whatever_its_names(tmp_path, sampler):
    study = open_study(tmp_path / "all", sampler, 1000, space=NAMED)
    assert sorted(work(study)) == sorted(NAMED.networks())
    assert study.used_up
    costs = {"flops": lambda a: COSTS["flops"](NAMED.canonical(a))}
    few = open_study(tmp_path / "few", sampler, 1000, space=NAMED, limit={"flops": 120}, costs=costs)
    assert sorted(work(few)) == [a for a in NAMED.networks() if costs["flops"](a) <= 120]


def test_the_sampler_knows_a_broken_limit_is_infeasible(tmp_path):
    study = open_study(tmp_path, "nsga2", trials=27, limit={"accuracy": 0.5, "loss": 0.8})
    work(study)
    for trial in study.trials():
        assert trial.feasible == (trial.values["accuracy"] >= 0.5 and trial.values["loss"] <= 0.8)
    assert 0 < sum(t.feasible for t in study.trials()) < 27
    study._proposer.tell(study.trials())
    told = [t for t in study._proposer.study.trials if t.state.name == "COMPLETE"]
    for trial, known in zip(study.trials(), told, strict=True):
        violations = {"accuracy": 0.5 - trial.values["accuracy"], "loss": trial.values["loss"] - 0.8}
        assert known.constraints == pytest.approx(violations)


def test_failed_trials_keep_their_reason_and_never_repeat(tmp_path):
    study = open_study(tmp_path, "tpe", trials=27)
    while claimed := study.claim():
        for trial in claimed:
            failed = "loss is nan" if trial.architecture[0] == 1 else ""
            told = study.tell(trial, values_of(trial.architecture), 0.1, failed)
            assert (told.finished, told.feasible, told.values == {}) == (True, not failed, bool(failed))
    reasons = {t.architecture: t.failed for t in open_study(tmp_path, "tpe", trials=27).trials()}
    assert len(reasons) == 27
    assert all(reason == ("loss is nan" if a[0] == 1 else "") for a, reason in reasons.items())


def test_the_journal_of_another_search_is_refused(tmp_path):
    first, late = open_study(tmp_path, "tpe", 8), open_study(tmp_path, "tpe", 8, seed=1)  # before there is a line
    first.claim()
    before = (tmp_path / "journal.log").read_bytes()
    for use in (late.claim, lambda: open_study(tmp_path, "tpe", 8, seed=1)):
        with pytest.raises(CheckpointError, match=r"was begun with other settings \(seed: 0 -> 1\)"):
            use()
    assert (tmp_path / "journal.log").read_bytes() == before


def test_a_journal_that_makes_no_sense_is_refused(tmp_path):
    study = open_study(tmp_path, trials=1)
    work(study)
    whole = (tmp_path / "journal.log").read_text()
    worker = "0" * 32
    for wrong in (
        {"trial": 3, "worker": worker, "architecture": "0-0-0"},
        {"trial": 1, "worker": "../../elsewhere", "architecture": "0-0-0"},
        {"trial": 1, "worker": worker, "architecture": "0-0-9"},
        {"trial": 7, "seconds": 1.0, "values": {}},
        {"trial": 0, "seconds": 1.0, "values": 3, "failed": []},
        {"trial": 0, "values": {"loss": 1.0}},
        {"trial": None},
    ):
        line = {**wrong, "crc32": crc32(json.dumps(wrong).encode())}
        (tmp_path / "journal.log").write_text(whole + json.dumps(line) + "\n")
        with pytest.raises(CheckpointError, match=r"journal\.log: cannot be read: line 4 is damaged"):
            open_study(tmp_path, trials=1)
