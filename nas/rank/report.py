"""What a ranking leaves behind: tables, predictions, a report and an image, each written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nas.checkpoint import versions
from nas.draw import Panel, draw_scatter
from nas.files import write_whole
from nas.rank.predictions import Prediction
from nas.rank.ranking import Ranking, tables
from nas.rank.target import RankTarget
from nas.score.benchmark import BenchmarkTable
from nas.score.correlation import best
from nas.settings import RankRunSettings
from nas.space import SearchSpace
from nas.track import Writer


def write_report(
    folder: Path,
    settings: RankRunSettings,
    target: RankTarget,
    predictions: Sequence[Prediction],
    ranking: Ranking,
) -> None:
    """Write ``rank.csv``, ``predictions.csv``, ``report.json``, ``scatter.png``, and all of it for TensorBoard."""
    write_whole(folder / "rank.csv", _rank_csv(ranking))
    write_whole(folder / "predictions.csv", _predictions_csv(predictions, target.truth, target.space))
    report = {
        "settings": _plain(settings),
        "space": asdict(target.space_settings),
        "checkpoints": [{"path": str(trained.path), "step": trained.step} for trained in target.trained],
        "truth": {"name": target.truth.name, "seeds": target.truth.accuracies.shape[1]},
        "rows": [asdict(row) for row in ranking.rows],
        "ceiling": None if ranking.ceiling is None else asdict(ranking.ceiling),
        "conclusions": ranking.conclusions,
        "versions": versions(),
    }
    write_whole(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    image = scatter(predictions, ranking, target.truth)
    write_whole(folder / "scatter.png", image)
    with closing(Writer(folder, settings.rank.tensorboard)) as writer:
        writer.scalars(0, {f"tau/{row.name.replace(' ', '')}": row.correlation.tau for row in ranking.rows})
        writer.text("rank", _markdown(ranking, target.truth))
        writer.image("rank/scatter", image)


def scatter(predictions: Sequence[Prediction], ranking: Ranking, truth: BenchmarkTable) -> bytes:
    """Predictions against the truth as a PNG, a panel a predictor in the order of the ranking's rows."""
    by_name = {prediction.name: prediction for prediction in predictions}
    panels = []
    for row in ranking.rows:
        one, c = by_name[row.name], row.correlation
        title = f"{row.name}\ntau {c.tau:.2f} [{c.tau_low:.2f}, {c.tau_high:.2f}]"
        pick = int(one.goodness.mean(dim=0).argmax())
        panels.append(Panel(title, one.values, pick, one.lower_is_better, one.kind == "trivial"))
    architectures, seeds = truth.accuracies.shape
    has_bars = seeds > 1 and architectures <= 1000  # of more they would hide the points
    error = 100 * truth.accuracies.std(dim=1) / math.sqrt(seeds) if has_bars else None
    top = torch.zeros(architectures, dtype=torch.bool)
    top[best(truth.mean)] = True
    return draw_scatter(panels, 100 * truth.mean, error, top)


def _rank_csv(ranking: Ranking) -> str:
    rows = [{"predictor": row.name, "kind": row.kind, **asdict(row.correlation)} for row in ranking.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _predictions_csv(predictions: Sequence[Prediction], truth: BenchmarkTable, space: SearchSpace) -> str:
    """A row an architecture: its trainings, then each predictor's draws, as they are (a loss is a loss)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"accuracy_{seed}" for seed in range(truth.accuracies.shape[1])]
    columns = list(truth.accuracies.T)
    for prediction in predictions:
        several = len(prediction.values) > 1
        names += [f"predicted_{prediction.name}" + (f"_{k}" if several else "") for k in range(len(prediction.values))]
        columns += list(prediction.values)
    writer.writerow(["architecture", *names])
    for architecture, *values in zip(truth.architectures, *(c.tolist() for c in columns), strict=True):
        writer.writerow([space.encode(architecture), *(f"{value:.8g}" for value in values)])
    return text.getvalue()


def _markdown(ranking: Ranking, truth: BenchmarkTable) -> str:
    """The terminal's tables as a block of code, and the sentences below them."""
    console = Console(file=io.StringIO(), width=140)
    console.print(*tables(ranking, truth), sep="\n")
    assert isinstance(console.file, io.StringIO)
    block = "\n".join("    " + line for line in console.file.getvalue().splitlines())
    return block + "\n\n" + "\n\n".join(ranking.conclusions)


def _plain(settings: RankRunSettings) -> dict[str, Any]:
    return asdict(settings)
