"""A predictor that learns from the table is held against what it has not seen, and says how much it has seen."""

import csv
import io

import pytest
import torch
from rich.console import Console

from nas.rank import Prediction, RankTarget, rank, tables, write_report
from nas.rank.learned import DRAWS, learned
from nas.score.benchmark import BenchmarkTable
from nas.score.correlation import kendall_tau
from nas.settings import ChainSettings, RankRunSettings, RankSettings
from nas.space import build_space

SETTINGS = ChainSettings(widths=[4], depths=[3], strides=[1])
SPACE = build_space(SETTINGS)
ALL = list(SPACE.enumerate())


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TRUTH = BenchmarkTable("table.csv", ALL, 0.5 + 0.05 * noise(len(ALL), 1) + 0.01 * noise(len(ALL), 3, seed=1), None)


class Recorder:
    """A regression that knows nothing but what it is shown, for which it predicts that; 0 for all others."""

    def __init__(self):
        self.shown = []

    def fit(self, architectures, accuracies):
        self.shown.append(dict(zip(architectures, accuracies, strict=True)))

    def predict(self, architectures):
        return [self.shown[-1].get(a, 0.0) for a in architectures], None


def test_it_is_held_against_what_it_has_not_seen():
    recorder = Recorder()
    found = learned(recorder, TRUTH, trainings=10, seed=0)
    assert found.values.shape == (len(recorder.shown), len(ALL)) == (DRAWS, 64)
    for draw, shown in enumerate(recorder.shown):
        column, rest = TRUTH.accuracies[:, draw % 3], [k for k in range(3) if k != draw % 3]
        assert shown == {a: column[ALL.index(a)].item() for a in shown}
        assert len(shown) == 10
        unseen = found.unseen.architectures[draw]
        assert {a for a, is_unseen in zip(ALL, unseen, strict=True) if is_unseen} == {*ALL} - {*shown}
        assert torch.allclose(found.unseen.truth[draw], TRUTH.accuracies[:, rest].mean(dim=1))
    row = rank([found, *trivial()], TRUTH).rows[0]
    assert (row.correlation.tau, row.correlation.n, row.correlation.draws) == (0.0, 54, DRAWS)


def trivial():
    return [Prediction("parameters", "trivial", TRUTH.mean[None] + 0.05 * noise(1, 64, seed=3))]


def test_the_draws_are_those_of_the_seed():
    shown = []
    for seed in (0, 0, 1):
        recorder = Recorder()
        learned(recorder, TRUTH, 10, seed)
        shown.append([[*known] for known in recorder.shown])
    assert shown[0] == shown[1] != shown[2]
    assert len({tuple(known) for known in shown[0]}) == DRAWS


def test_rows_of_few_trainings_lend_what_they_have():
    missing = torch.zeros(64, 3, dtype=torch.bool)
    missing[:32, 0] = missing[:16, 1] = True  # some lack the first seed, some have the last one alone
    ragged = BenchmarkTable("", ALL, TRUTH.accuracies.masked_fill(missing, 0), None, missing)
    recorder = Recorder()
    found = learned(recorder, ragged, 20, seed=0)
    for draw, shown in enumerate(recorder.shown):
        for a, accuracy in shown.items():
            row, at = TRUTH.accuracies[ALL.index(a)].tolist(), ALL.index(a)
            assert accuracy == row[draw % 3 if not missing[at, draw % 3] else int(missing[at].sum())]
        alone = found.unseen.truth[draw, :16]
        assert torch.equal(alone, ragged.accuracies[:16, 2])


def test_the_report_says_what_it_has_seen(tmp_path):
    class Oracle(Recorder):
        def predict(self, architectures):
            return [TRUTH.mean[ALL.index(a)].item() for a in architectures], None

    predictions = [learned(Oracle(), TRUTH, 16, seed=0), *trivial()]
    found = rank(predictions, TRUTH)
    row = found.rows[0]
    held = predictions[0].unseen
    taus = [kendall_tau(TRUTH.mean[u], t[u]) for u, t in zip(held.architectures, held.truth, strict=True)]
    assert row.correlation.tau == pytest.approx(sum(taus) / DRAWS)
    assert found.conclusions[0].startswith("A regression on 16 trainings ranks better than the parameter count")
    text = io.StringIO()
    Console(width=115, file=text).print(*tables(found, TRUTH), sep="\n")
    assert f"surrogate, 16 trainings │ {row.correlation.tau:.2f}" in text.getvalue().replace("  ", " ")
    assert "the other 48" in " ".join(text.getvalue().split())
    target = RankTarget(SPACE, SETTINGS, TRUTH, [], (3, 32, 32), [])
    write_report(tmp_path, RankRunSettings(rank=RankSettings(tensorboard=False)), target, predictions, found)
    with open(tmp_path / "rank.csv") as file:
        assert [row["trainings"] for row in csv.DictReader(file)] == ["16", "0"]
