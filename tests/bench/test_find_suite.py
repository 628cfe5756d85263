"""``suite=find``: what is replayed is a whole search, and the surrogate finds better networks than random search."""

import io
import json
import statistics
from functools import partial

import pytest
import torch
from rich.console import Console

from nas.bench import find, suites
from nas.bench.replay import InOrder, Truth, columns_of, regret, replay, unseen_tau
from nas.errors import DataError, SettingError
from nas.search.propose.proposers import RandomProposer
from nas.settings import BenchSettings, ChainSettings, MacroSettings
from nas.settings.rank import FEATURES


@pytest.fixture(scope="module")
def truth():
    return Truth.of(ChainSettings(widths=[8, 16]), "own")


def mean_regret(truth, build, limits, repeats):
    best = truth.best(limits)
    found = [replay(truth, build(seed=i), 24, columns_of(truth, i)) for i in range(repeats)]
    return statistics.fmean(regret(truth, best, one, ())[0] for one in found)


def test_the_surrogate_finds_better_than_random_search(truth):
    limits = truth.limits(100)
    random = mean_regret(truth, partial(RandomProposer, truth.space, limits), limits, 12)
    surrogate = mean_regret(truth, partial(truth.proposer, limits, features=FEATURES[:3]), limits, 4)
    assert random > 1
    assert surrogate < 0.65
    assert surrogate < random / 2


def test_winners_keep_their_limits(truth):
    for percentile in (25, 50):
        limits = truth.limits(percentile)
        kept = sum(map(limits.within, truth.space.enumerate()))
        assert kept >= 256 * percentile / 100
        assert limits.within(replay(truth, truth.proposer(limits, 0), 24, (0, 1)))


def test_a_replay_spends_its_trainings(truth, monkeypatch):
    looked_up = []

    class Counted(RandomProposer):
        def tell(self, trials):
            looked_up[:] = trials

    replay(truth, Counted(truth.space, truth.limits(100), 0), 24, (0, 1))
    assert len(looked_up) == 20  # and four finals


def test_regret_is_what_the_best_has_more(truth):
    limits = truth.limits(100)
    best, mean = truth.best(limits), truth.table.mean
    other = truth.table.architectures[7]
    lost, unseen = regret(truth, best, other, (0, 1))
    assert lost == pytest.approx(100 * float(mean.max() - mean[7]))
    row = truth.table.architectures.index(best)
    assert unseen == pytest.approx(100 * float(truth.table.accuracies[row, 2] - truth.table.accuracies[7, 2]))
    assert regret(truth, best, best, (0, 1)) == (0, 0)


def test_the_supernet_helps_on_unseen_networks(truth):
    with_it, without = (
        statistics.fmean(unseen_tau(truth, 24, repeat, features) for repeat in range(5))
        for features in (FEATURES, FEATURES[:3])
    )
    assert with_it > without > 0.65


def test_in_order_the_largest_come_first(truth):
    sizes, limits = truth.costs["parameters"], truth.limits(50)
    asked = InOrder(truth.space, limits, 0, sizes)
    found = [asked.ask(i, set()).architecture for i in range(5)]
    assert [sizes[a] for a in found] == sorted((sizes[a] for a in limits.allowed()), reverse=True)[:5]


def test_the_suite_prints_every_row(truth, monkeypatch):
    monkeypatch.setattr(find, "proposal_seconds", lambda: 0.5)
    monkeypatch.setattr(find, "replay", lambda truth, *_: truth.table.architectures[100])
    monkeypatch.setattr(find, "unseen_tau", lambda *_: 0.9)
    result = suites.measure(BenchSettings(suite="find", rounds=3), lambda what: None)
    assert json.loads(json.dumps(result)) == result
    page = io.StringIO()
    Console(file=page, width=120).print(suites.table(result))
    for row in result["rows"]:
        assert f"  {row['what']} " in page.getvalue()
        assert row["network"] in page.getvalue()
    bars = {row["bar"] for row in result["rows"] if row["what"] == "surrogate" and row["figure"] == "tau"}
    assert bars == {None, 0.80}


def test_tables_that_cannot_be_replayed_are_refused(tmp_path):
    path = tmp_path / "macro.json"
    path.write_text(json.dumps({"00000000": {"test_acc": [80.0, 81.0, 82.0]}}))
    with pytest.raises(DataError, match="three trainings of each network"):
        Truth.of(MacroSettings(), str(path))
    with pytest.raises(SettingError, match="is for suite=find"):
        BenchSettings(macro=str(path))


def test_losses_of_the_supernet_are_of_the_whole_space(truth):
    assert {*truth.losses} == {*truth.space.enumerate()}
    losses = torch.tensor([truth.losses[a] for a in truth.table.architectures])
    assert torch.corrcoef(torch.stack([losses, truth.table.mean.float()]))[0, 1] < -0.8
