"""The files of a ranking: tables, predictions, a report and an image, each written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, astuple, fields
from pathlib import Path
from textwrap import indent

import torch
from torch import Tensor

from nas.checkpoint import versions
from nas.console import new_console
from nas.draw import Panel, draw_scatter
from nas.files import write_csv, write_json, write_whole
from nas.rank.prediction import Prediction
from nas.rank.ranking import Ranking, tables
from nas.rank.target import RankTarget
from nas.score.benchmark import BenchmarkTable
from nas.score.correlation import Correlation, best
from nas.settings import RankRunSettings
from nas.space import SearchSpace
from nas.track import Writers
from nas.track.tags import OVERVIEW, PLOTS


def write_report(
    folder: Path,
    settings: RankRunSettings,
    target: RankTarget,
    predictions: Sequence[Prediction],
    ranking: Ranking,
) -> None:
    """Write ``rank.csv``, ``predictions.csv``, ``report.json`` and ``scatter.png``, and log them to TensorBoard."""
    head = ["predictor", "kind", "trainings", *(field.name for field in fields(Correlation))]
    rows = [[row.name, row.kind, row.trainings, *astuple(row.correlation)] for row in ranking.rows]
    write_csv(folder / "rank.csv", head, rows)
    _write_predictions(folder / "predictions.csv", predictions, target.truth, target.space)
    trainings = int(target.truth.trainings.sum())
    report = {
        "settings": asdict(settings),
        "space": asdict(target.space_settings),
        "checkpoints": [{"path": str(trained.path), "step": trained.step} for trained in target.trained],
        "truth": {"name": target.truth.name, "seeds": target.truth.accuracies.shape[1], "trainings": trainings},
        "rows": [asdict(row) for row in ranking.rows],
        "ceiling": None if ranking.ceiling is None else asdict(ranking.ceiling),
        "conclusions": ranking.conclusions,
        "versions": versions(),
    }
    write_json(folder / "report.json", report)
    image = scatter(predictions, ranking, target.truth)
    write_whole(folder / "scatter.png", image)
    with closing(Writers(folder, ["tensorboard"] if settings.rank.tensorboard else [])) as writer:
        writer.scalars(0, {f"{OVERVIEW}tau_{row.name.replace(' ', '')}": row.correlation.tau for row in ranking.rows})
        writer.text("rank", _markdown(ranking, target.truth))
        writer.image(f"{PLOTS}scatter", image)


def scatter(predictions: Sequence[Prediction], ranking: Ranking, truth: BenchmarkTable) -> bytes:
    """Predictions against the truth as a PNG, one panel for each predictor, in the order of the ranking's rows."""
    by_name = {prediction.name: prediction for prediction in predictions}
    panels = []
    for row in ranking.rows:
        one, c = by_name[row.name], row.correlation
        title = f"{row.label}\ntau {c.tau:.2f} [{c.tau_low:.2f}, {c.tau_high:.2f}]"
        pick = int(one.goodness.mean(dim=0).argmax())
        panels.append(Panel(title, one.values, pick, one.lower_is_better, one.kind == "trivial"))
    architectures, seeds = truth.accuracies.shape
    has_bars = seeds > 1 and architectures <= 1000  # more bars would hide the points
    error = 100 * _standard_errors(truth) if has_bars else None
    top = torch.zeros(architectures, dtype=torch.bool)
    top[best(truth.mean)] = True
    return draw_scatter(panels, 100 * truth.mean, error, top)


def _standard_errors(truth: BenchmarkTable) -> Tensor:
    """Of the means over trainings, ``(n,)``; 0, no bar, where there is one training."""
    off = (truth.accuracies - truth.mean[:, None]) * truth.trained
    return (off.square().sum(dim=1) / (truth.trainings - 1).clamp(min=1) / truth.trainings).sqrt()


def _write_predictions(
    path: Path, predictions: Sequence[Prediction], truth: BenchmarkTable, space: SearchSpace
) -> None:
    """One row for each architecture: its trainings, then each predictor's draws with their own sign."""
    names = [f"accuracy_{seed}" for seed in range(truth.accuracies.shape[1])]
    columns = [_cells(values, there) for values, there in zip(truth.accuracies.T, truth.trained.T, strict=True)]
    for prediction in predictions:
        several = len(prediction.values) > 1
        names += [f"predicted_{prediction.name}" + (f"_{k}" if several else "") for k in range(len(prediction.values))]
        columns += [_cells(values, torch.ones_like(values)) for values in prediction.values]
    write_csv(path, ["architecture", *names], zip(map(space.encode, truth.architectures), *columns, strict=True))


def _cells(values: Tensor, there: Tensor) -> list[str]:
    return [f"{value:.8g}" if known else "" for value, known in zip(values.tolist(), there.tolist(), strict=True)]


def _markdown(ranking: Ranking, truth: BenchmarkTable) -> str:
    """The terminal's table as a code block, followed by the conclusions."""
    text = io.StringIO()
    new_console(text).print(*tables(ranking, truth), sep="\n")
    block = indent(text.getvalue().rstrip(), "    ")
    return block + "\n\n" + "\n\n".join(ranking.conclusions)
