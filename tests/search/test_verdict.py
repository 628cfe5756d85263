"""A verdict says no where there is nothing to say, and its interval holds what it promises."""

import csv
import json
import random
import re
from statistics import NormalDist, fmean

import pytest
import torch
from search.test_stages import COSTS, SMALL, accuracy, first_of, of_stage, open_study, work
from support.runs import CHAIN, tiny

import nas.search.run
from nas.checkpoint import load_trained
from nas.errors import CheckpointError
from nas.export import find_source
from nas.export.source import Source
from nas.search import Evaluator, Search, read_result, search, summarize, summary
from nas.search.propose.stages import FINAL, RANDOM, SEARCH, WINNER, Budget, Stages
from nas.search.trained.verdict import Pair, verdict_of
from nas.search.trained.verdict_report import verdict_lines
from nas.settings import SearchRunSettings, SearchSettings, TrainingsSettings

NOISE, CLASS = 0.9, 1.4
"""Points of accuracy, of the table of chain: the spread of one network's trainings, and of networks of one cost."""
DRAWS = 600


def simulated(quality, seed, networks=8):
    """The verdict on a winner that is so many points better than the mean network; ``quality`` is asked each draw."""
    rng = random.Random(seed)

    def trained(points):
        return 0.5 + rng.gauss(points, NOISE) / 100

    pairs = [Pair(draw, "0", trained(quality(rng)), trained(rng.gauss(0, CLASS))) for draw in range(2, 2 + networks)]
    return verdict_of(pairs, "random networks of the same FLOPs")


def shown(quality):
    return fmean(simulated(quality, seed).shown for seed in range(DRAWS))


def one_pick(seed):
    """A network that is picked at random once, and then is the same one in all pairs."""
    points = random.Random(f"pick {seed}").gauss(0, CLASS)
    return lambda rng: points


def test_a_planted_random_winner_is_not_shown():
    """Each of its trainings is that of a random network, or of one that is as good as their mean."""
    assert 0.95 <= 1 - shown(lambda rng: rng.gauss(0, CLASS)) <= 0.99
    assert 0.95 <= 1 - shown(lambda rng: 0) <= 0.99


def test_a_good_winner_is_shown():
    """The best of a class of 20 is 1.9 standard deviations above the mean."""
    assert shown(lambda rng: 1.9 * CLASS) > 0.85


def test_the_interval_covers_the_true_difference():
    for points in (0, 1, 3):
        found = [simulated(lambda rng, points=points: points, seed) for seed in range(DRAWS)]
        assert 0.935 <= fmean(v.low <= points / 100 <= v.high for v in found) <= 0.965


def test_share_tells_a_lucky_pick_from_a_rare_one():
    """One network picked at random may well be better than the mean; as good as few others it is seldom."""
    picks = [simulated(one_pick(seed), seed) for seed in range(DRAWS)]
    assert 0.1 < fmean(v.shown for v in picks) < 0.25
    assert 0.03 < fmean(v.shown and v.share <= 0.08 for v in picks) < 0.07
    for points in (0.0, 1.5):
        found = [simulated(lambda rng, points=points: points, seed) for seed in range(DRAWS)]
        one_more = NormalDist(-points, (CLASS**2 + NOISE**2 * (1 + 1 / 8)) ** 0.5)
        assert fmean(v.share for v in found) == pytest.approx(1 - one_more.cdf(0), abs=0.05)


def test_a_verdict_by_hand():
    pairs = [Pair(2, "a", 0.60, 0.50), Pair(3, "b", 0.62, 0.56), Pair(4, "c", 0.61, 0.54), Pair(5, "d", None, 0.9)]
    verdict = verdict_of(pairs[:3], "random networks of the same FLOPs")
    assert verdict.difference == pytest.approx(0.23 / 3)
    assert verdict.high - verdict.difference == pytest.approx(4.302653 * 0.0208167 / 3**0.5, rel=1e-4)
    assert verdict.sentence == ("better by 7.7 points [2.5, 12.8] than the mean of 3 random networks of the same FLOPs")
    assert verdict.remarks[0].startswith("0 of the 3 reached the winner's mean; by their spread ")
    failed = verdict_of(pairs, verdict.drawn_from)
    assert (failed.low, failed.shown) == (verdict.low, False)  # a winner that fails is no winner
    assert failed.remarks[1] == "trainings that failed: 1 of the winner, 0 of random networks"
    assert failed.sentence.startswith("not shown to be better than the mean of 3 random networks")
    assert verdict_of(pairs[2:], "") is None


def test_trainings_that_are_all_alike_have_a_verdict():
    assert "-0.0" not in verdict_of([Pair(draw, "0", 0.5, 0.5001) for draw in range(8)], "").sentence
    for other, is_shown, share in ((0.5, False, 1.0), (0.25, True, 0.0)):
        verdict = verdict_of([Pair(draw, "0", 0.5, other) for draw in range(8)], "random networks")
        assert (verdict.shown, verdict.share) == (is_shown, share)
        assert verdict.low == verdict.high == 0.5 - other


def outcome_of(study):
    return summarize(study.space, study.objectives, study.trials(), stages=study.stages)


def test_tables_have_means_and_the_best_is_the_winner(tmp_path):
    study = open_study(tmp_path)
    work(study)
    outcome = outcome_of(study)
    assert outcome.best.architecture == first_of(study)
    for trial in outcome.candidates:
        own = [t.values["trained"] for t in study.trials() if t.architecture == trial.architecture]
        assert trial.values["trained"] == pytest.approx(fmean(own))
        assert outcome.trainings[trial.architecture] == len(own)
    assert len(outcome.candidates) == 20
    assert len(outcome.trials) == 40
    lines = summary(outcome)
    assert "40 trainings: 20 to search, 4 finals, 16 for the verdict" in lines
    winners = [accuracy(first_of(study), draw) for draw in range(2, 10)]
    assert [pair.winner for pair in outcome.verdict.pairs] == winners
    assert [pair.random for pair in outcome.verdict.pairs] == [t.values["trained"] for t in of_stage(study, RANDOM)]
    assert lines[-2] == f"verdict: {outcome.verdict.sentence}"
    assert outcome.verdict.sentence.endswith("8 random networks of the same FLOPs") or not outcome.verdict.shown


def test_the_verdict_says_when_few_networks_cost_the_same(tmp_path):
    for limit, among in (({}, "of the space"), ({"flops": 130}, "within the limits")):
        study = open_study(tmp_path / among, space=SMALL, limit=limit)
        work(study)
        (line, _) = verdict_lines(outcome_of(study))
        assert f"than the mean of 8 random networks {among}, with " in line
        cost = COSTS["flops"]
        share = fmean(cost(t.architecture) for t in of_stage(study, RANDOM)) / cost(first_of(study))
        assert f"{share:.0%} of its FLOPs on average (" in line
        assert re.search(r"\((no other has|only 1 other has|only \d others have) as many\)", line)


def test_no_verdict_says_why(tmp_path):
    for name, fails, why in (
        ("all", lambda t: True, "no verdict: no network was trained within the limits"),
        (
            "final",
            lambda t: t.stage == FINAL,
            r"no verdict: not one network of the finals could be trained again; .* nan",
        ),
        ("winner", lambda t: t.stage == WINNER, r"no verdict: 8 trainings of its 16 failed; the last: loss is nan"),
    ):
        study = open_study(tmp_path / name)
        work(study, fails=fails)
        outcome = outcome_of(study)
        assert outcome.verdict is None
        assert (outcome.best is None) is (name != "winner")
        (line,) = verdict_lines(outcome)
        assert line.startswith(why.split(";")[0])
    study = open_study(tmp_path / "alone", space=SMALL, limit={"flops": 100})
    work(study)
    assert verdict_lines(outcome_of(study)) == ["no verdict: the space has no other network"]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_search_by_trainings_ends_in_a_verdict(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    few = lambda search, how, costs: Stages(search, Budget(2, 1, 3), costs)  # noqa: E731 (8 networks take long)
    monkeypatch.setattr(nas.search.run, "stages_of", few)
    how = SearchSettings(
        objectives=["trained", "flops"],
        train=TrainingsSettings(epochs=1, batch_size=8),
        sampler="random",
        threads=1,
        tensorboard=False,
        progress=False,
    )
    begun = Search(SearchRunSettings(space=CHAIN, data=tiny().data, search=how), tmp_path)
    outcome = search(begun)
    begun.study.close()
    rows = table(tmp_path / "trials.csv")
    assert [row["stage"] for row in rows] == [SEARCH] * 2 + [FINAL] + [WINNER, RANDOM] * 3
    result, verdict = read_result(tmp_path), outcome.verdict
    assert result.best == begun.target.space.encode(outcome.best.architecture)
    assert result.verdict["sentence"] == verdict.sentence
    assert [pair["random"] for pair in result.verdict["pairs"]] == [float(r["trained"]) for r in rows[4::2]]
    report = (tmp_path / "report.md").read_text()
    assert f"- verdict: {verdict.sentence}" in report
    assert "- 9 trainings: 2 to search, 1 final, 6 for the verdict" in report
    assert (tmp_path / "verdict.png").read_bytes()[1:4] == b"PNG"
    assert {row["trainings"] for row in table(tmp_path / "front.csv")} <= {"1", "2", "5"}
    assert find_source("", str(tmp_path), "best", weights=False) == Source("", result.best)
    trained = find_source("", str(tmp_path), "best")
    assert trained == Source(str(tmp_path / "trainings" / f"{result.best}_1"), result.best)
    (final,) = (row for row in rows if row["stage"] == FINAL)
    (evaluated,) = Evaluator.of(load_trained(trained.checkpoint), recalibrate=False)([outcome.best.architecture])
    assert evaluated.accuracy == float(final["trained"])
    other = next(row["architecture"] for row in rows if row["architecture"] != result.best)
    with pytest.raises(CheckpointError, match="was made without a checkpoint, so it has no weights; train the best"):
        find_source("", str(tmp_path), other)
    assert json.loads((tmp_path / "result.json").read_text())["evaluated"] == 2
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"begun with other settings \(search\.trainings: 3 -> 24\)"):
        Search(begun.settings, tmp_path)
