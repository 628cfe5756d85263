"""Rows, sentences, files and the image, on predictions whose worth is known."""

import csv
import io
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from nas.rank import Prediction, RankTarget, rank, tables, write_report
from nas.score.benchmark import BenchmarkTable
from nas.score.correlation import kendall_tau
from nas.settings import ChainSettings, RankRunSettings, RankSettings
from nas.space import build_space

SETTINGS = ChainSettings(widths=[4], depths=[3], strides=[1])
SPACE = build_space(SETTINGS)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def truth_of(seeds):
    accuracies = 0.5 + 0.05 * noise(64, 1) + 0.01 * noise(64, seeds, seed=1)
    return BenchmarkTable("table.csv", list(SPACE.enumerate()), accuracies, None)


def predictions_for(truth, supernet=0.2, draws=1):
    """A good parameter count, useless FLOPs and a proxy between them, and a supernet with so much noise."""
    scale = (truth.mean - truth.mean.mean()) / truth.mean.std()

    def of(seed, noisy, number=1):
        return scale + noisy * noise(number, 64, seed=seed)

    return [
        Prediction("loss", "supernet", -of(2, supernet, draws), lower_is_better=True),
        Prediction("accuracy_running", "supernet", of(6, 3.0, draws)),
        Prediction("naswot", "proxy", of(3, 1.5)),
        Prediction("parameters", "trivial", of(4, 0.6)),
        Prediction("flops", "trivial", of(5, 3.0)),
    ]


@pytest.fixture(autouse=True)
def _few_tables(monkeypatch):
    monkeypatch.setattr("nas.score.noise.TABLES", 20)


@pytest.fixture
def truth():
    return truth_of(3)


def test_rows_stand_by_kind_the_best_first(truth):
    predictions = predictions_for(truth)
    found = rank(predictions[::-1], truth)
    assert [row.name for row in found.rows] == ["loss", "accuracy_running", "naswot", "parameters", "flops"]
    by_name = {prediction.name: prediction for prediction in predictions}
    for row in found.rows:
        assert row.correlation.tau == pytest.approx(kendall_tau(by_name[row.name].goodness[0], truth.mean))
    assert found == rank(predictions, truth)
    assert found.ceiling.tau > found.rows[0].correlation.tau


def test_the_verdict_is_that_of_the_paired_interval(truth):
    for supernet, verdict in ((0.05, "better than"), (5.0, "worse than"), (0.62, "n.* better than")):
        sentences = rank(predictions_for(truth, supernet), truth).conclusions
        name = r"The supernet's (loss|accuracy with running statistics), the best of 2 ways to ask it,"
        expected = rf"{name} ranks {verdict} the parameter count \(difference of tau [+-]\d\.\d\d, 95 % \[.*\]\)\."
        assert re.fullmatch(expected, sentences[0]), sentences[0]
        assert re.fullmatch(r"The proxy naswot ranks worse than the parameter count .*", sentences[1])
        assert "even a perfect predictor would reach only about tau 0.9" in sentences[-1]


def text_of(found, truth, width=115):
    console = Console(width=width, file=io.StringIO())
    console.print(*tables(found, truth), sep="\n")
    return console.file.getvalue()


def test_the_table_shows_every_figure_uncut(truth):
    predictions = predictions_for(truth, draws=3)
    found = rank(predictions, truth)
    text = text_of(found, truth)
    assert "…" not in text
    for row in found.rows:
        c = row.correlation
        assert f"{c.tau:.2f} [{c.tau_low:.2f}, {c.tau_high:.2f}]" in text
    assert f"3 ±{found.rows[0].correlation.tau_spread:.2f}" in text
    assert "64 architectures against the mean of 3 trainings each" in text
    assert f"{found.ceiling.tau:.2f} [{found.ceiling.tau_low:.2f}, {found.ceiling.tau_high:.2f}]" in text
    single = truth_of(1)
    found = rank(predictions_for(single), single)
    assert found.ceiling is None
    assert found.conclusions[-1].startswith("The table has one training of each architecture")
    text = text_of(found, single)
    assert "against 1 training each" in text
    assert "perfect" not in text
    assert "draws" not in text


def test_trivial_predictors_that_order_alike_share_a_row(truth):
    *others, parameters, _ = predictions_for(truth)
    alike = Prediction("flops", "trivial", 3 * parameters.values.exp())
    found = rank([*others, parameters, alike], truth)
    assert [row.label for row in found.rows][-2:] == ["naswot", "parameters, flops"]
    assert found.rows[:3] == rank([*others, parameters], truth).rows[:3]
    assert "than the parameter count (or flops, which order alike) (difference" in found.conclusions[0]
    assert "parameters, flops" in text_of(found, truth)
    alike.values[0, 0] += 100
    assert len(rank([*others, parameters, alike], truth).rows) == 5


def test_a_ranking_takes_rows_of_any_number_of_seeds(truth, tmp_path):
    missing = torch.zeros(64, 3, dtype=torch.bool)
    missing[10:, 1] = missing[:5, 0] = missing[20:30, 2] = True
    gaps = replace(truth, accuracies=truth.accuracies.masked_fill(missing, 0.0), missing=missing)
    predictions = predictions_for(gaps)
    found = rank(predictions, gaps)
    assert "64 architectures against the mean of 1 to 3 trainings each" in text_of(found, gaps)
    assert found.conclusions[-1].endswith("points, and there are 1 to 3.")
    write_report(
        tmp_path, RankRunSettings(), RankTarget(SPACE, SETTINGS, gaps, [], (3, 32, 32), []), predictions, found
    )
    with open(tmp_path / "predictions.csv") as file:
        row = list(csv.DictReader(file))[25]
    assert [row["accuracy_1"], row["accuracy_2"]] == ["", ""]
    assert float(row["accuracy_0"]) == pytest.approx(gaps.mean[25].item())


def test_the_files_hold_what_was_found(truth, tmp_path):
    predictions = predictions_for(truth, draws=2)
    predictions[2].values[0, 5] = -math.inf
    found = rank(predictions, truth)
    target = RankTarget(SPACE, SETTINGS, truth, [], (3, 32, 32), [])
    settings = RankRunSettings(rank=RankSettings(tensorboard=True))
    write_report(tmp_path, settings, target, predictions, found)
    names = {path.name for path in tmp_path.iterdir() if "tfevents" not in path.name}
    assert names == {"rank.csv", "predictions.csv", "report.json", "scatter.png", "metrics.jsonl"}
    assert len(list(tmp_path.glob("*tfevents*"))) == 1
    with open(tmp_path / "rank.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["tau"]) for row in rows] == [row.correlation.tau for row in found.rows]
    with open(tmp_path / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["architecture"] for row in rows] == [SPACE.encode(a) for a in truth.architectures]
    assert float(rows[7]["accuracy_2"]) == pytest.approx(truth.accuracies[7, 2].item())
    assert float(rows[7]["predicted_loss_1"]) == pytest.approx(predictions[0].values[1, 7].item())
    assert float(rows[5]["predicted_naswot"]) == -math.inf
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rows"][0]["correlation"]["tau"] == found.rows[0].correlation.tau
    assert report["ceiling"]["tau"] == found.ceiling.tau
    assert report["conclusions"] == found.conclusions
