"""What a search leaves: tables, images, a page in Markdown, curves in TensorBoard, and a file for other commands."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nas.checkpoint import versions
from nas.console import ResultTable
from nas.draw import Axis, Points, draw_curve, draw_front, draw_values
from nas.files import write_csv, write_json, write_whole
from nas.search.how_measured import how_measured
from nas.search.outcome import FILE, SearchOutcome, SearchResult
from nas.search.pareto import hypervolume_curve
from nas.search.propose.proposers import Trial
from nas.search.propose.stages import FINAL
from nas.search.target import SearchTarget
from nas.search.trained.trainings import FOLDER, name_of
from nas.search.trained.verdict_report import VERDICT, as_code, as_json, drawn_verdict, pair_rows, verdict_lines
from nas.settings import SearchRunSettings
from nas.settings.changed import changed
from nas.settings.plain import flat
from nas.space import SearchSpace
from nas.track import Writers
from nas.track.tags import OVERVIEW, PLOTS

SHOWN = 40
"""Rows that a table has at most; the files have all."""


def write_report(folder: Path, settings: SearchRunSettings, target: SearchTarget, outcome: SearchOutcome) -> None:
    """Write everything into the folder of the search; each file whole or not at all.

    The same trials give the same files, so that every process that worked on a search may write them.
    """
    _write_csv(folder / "trials.csv", outcome, outcome.trials)
    _write_csv(folder / "front.csv", outcome, outcome.front, means=True)
    drawn = images(outcome) if outcome.feasible else {}
    for name, content in drawn.items():
        write_whole(folder / f"{name}.png", content)
    page = markdown(folder.name, settings, target, outcome, list(drawn))
    write_whole(folder / "report.md", page)
    _write_board(folder, settings, outcome, page, drawn)
    if outcome.best is None:
        (folder / FILE).unlink(missing_ok=True)
        return
    result = SearchResult(
        checkpoint=None if target.checkpoint is None else str(target.checkpoint),
        checkpoint_digest=target.digest,
        space=asdict(target.space_settings),
        data=asdict(target.data_settings),
        objectives=[o.name for o in outcome.objectives],
        best=outcome.space.encode(outcome.best.architecture),
        values=outcome.best.values,
        front=[{**_named(outcome.space, trial), "values": trial.values} for trial in outcome.front],
        evaluated=len(outcome.candidates),
        verdict=None if outcome.verdict is None else as_json(outcome.verdict),
        weights=_weights(outcome),
    )
    write_json(folder / FILE, asdict(result))


def _weights(outcome: SearchOutcome) -> str | None:
    """The training of the best one in the finals, which keeps its checkpoint."""
    assert outcome.best is not None
    network, space = outcome.best.architecture, outcome.space
    finals = [trial for trial in outcome.trials if trial.stage == FINAL and trial.architecture == network]
    return f"{FOLDER}/{name_of(space, network)}_{finals[-1].draw}" if finals else None


def files(folder: Path) -> list[str]:
    """The names of what a search has left that a person may want to open."""
    names = ("report.md", "front.csv", "trials.csv", "front.png", "hypervolume.png", "verdict.png", FILE, "optuna.log")
    return [name for name in names if (folder / name).exists()]


def front_table(outcome: SearchOutcome) -> ResultTable:
    """The front for a terminal."""
    names = ", ".join(o.name for o in outcome.objectives)
    title = f"Pareto front of {names}" if len(outcome.objectives) > 1 else f"Best {names}"
    left = f"the first {SHOWN} of {len(outcome.front)}; front.csv has all. " if len(outcome.front) > SHOWN else ""
    best = outcome.best in outcome.front[:SHOWN]
    caption = f"{left}* best by {outcome.best_by}" if best else left
    table = ResultTable(title, ["architecture", "choices"], _heads(outcome))
    table.caption = caption
    for trial in outcome.front[:SHOWN]:
        name, *cells = _cells(outcome, trial)
        table.add_row(f"{name} *" if trial == outcome.best else name, *cells)
    return table


def summary(outcome: SearchOutcome) -> list[str]:
    """What was done and found, in lines; the last ones are the verdict, where networks were trained."""
    trials, feasible = outcome.candidates, len(outcome.feasible)
    broken = sum(not (t.feasible or t.failed or t.stopped) for t in trials)
    failed = [t for t in trials if t.failed]
    to_the_end = "to the end and " if any(t.stopped for t in trials) else ""
    evaluated = f"{len(trials):,} of {outcome.space.size:,} architectures evaluated"
    lines = [f"{evaluated}, {feasible:,} {to_the_end}within the limits"]
    if outcome.spent is not None:
        lines.append(str(outcome.spent))
    if broken:
        lines.append(f"{broken:,} were evaluated and found to break a limit")
    if failed:
        lines.append(f"{len(failed):,} have no values; the last: {failed[-1].failed}")
    lines += outcome.remarks
    if outcome.best is not None:
        values = ", ".join(f"{o.head} {o.text(outcome.best.values[o.name])}" for o in outcome.columns)
        lines.append(f"best by {outcome.best_by}: {outcome.space.encode(outcome.best.architecture)}  {values}")
    return [*lines, *verdict_lines(outcome)]


def markdown(
    name: str, settings: SearchRunSettings, target: SearchTarget, outcome: SearchOutcome, drawn: Sequence[str]
) -> str:
    """The report as a page.

    Args:
        name: of the search.
        settings: of the search.
        target: what was searched.
        outcome: what was found.
        drawn: names of the ``.png`` files beside the page.
    """
    trained = target.trained
    what = f"`{trained.path}` (SHA-256 `{target.digest}`, step {trained.step:,})" if trained else "no checkpoint"
    lines = [f"# Search {name}", "", f"Space `{target.space.name}`, {what}.", ""]
    lines += [f"- {line}" for line in summary(outcome)]
    if outcome.verdict is not None:
        lines += ["", "## Verdict", "", *pair_rows(outcome.verdict), "", f"![{VERDICT}]({VERDICT}.png)"]
    lines += ["", "## Front", "", *_front_rows(outcome)]
    for image in (name for name in drawn if name != VERDICT):
        lines += ["", f"![{image}]({image}.png)"]
    lines += ["", "## How it was measured", "", *(f"- {line}" for line in how_measured(settings, target, outcome))]
    plain = {"checkpoint": settings.checkpoint or None, "seed": settings.seed, "search": asdict(settings.search)}
    lines += ["", "## Settings", "", "| setting | value |", "| --- | --- |"]
    lines += [f"| {key} | {value} |" for key, value in flat(plain).items()]
    used = {**versions(), "optuna": version("optuna"), "matplotlib": version("matplotlib")}
    lines += ["", ", ".join(f"{name} {number}" for name, number in used.items()), ""]
    return "\n".join(lines)


def images(outcome: SearchOutcome) -> dict[str, bytes]:
    """PNGs by name of a search that has a feasible trial: front and hypervolume, and the verdict if there is one."""
    objectives, feasible = outcome.objectives, outcome.feasible
    broken = [t for t in outcome.candidates if not t.feasible and t.values]
    axes = [Axis(o.label, o.smaller_is_better) for o in objectives]

    def rows(trials: Sequence[Trial]) -> list[list[float]]:
        return [[o.scale * t.values[o.name] for o in objectives] for t in trials]

    def by_trial(trials: Sequence[Trial]) -> dict[int, float]:
        return {t.number + 1: row[0] for t, row in zip(trials, rows(trials), strict=True)}

    compared = {} if outcome.verdict is None else {VERDICT: drawn_verdict(outcome.verdict)}
    if len(objectives) == 1:
        best = [objectives[0].scale * value for value in outcome.best_so_far(objectives[0])]
        return {"front": draw_values(axes[0], by_trial(feasible), by_trial(broken), best), **compared}
    best_row = None if outcome.best is None else rows([outcome.best])[0]
    names = [outcome.space.encode(trial.architecture) for trial in outcome.front]
    best_name = "" if outcome.best is None else outcome.space.encode(outcome.best.architecture)
    front = draw_front(axes, Points(rows(feasible), rows(broken), rows(outcome.front), best_row, names, best_name))
    curve = hypervolume_curve(outcome.points())
    numbers = [*(t.number + 1 for t in feasible), outcome.candidates[-1].number + 1]
    grown = draw_curve(numbers, [*curve, curve[-1]], *outcome.corner_texts())
    return {"front": front, "hypervolume": grown, **compared}


def _front_rows(outcome: SearchOutcome) -> list[str]:
    """The front as a table in Markdown."""
    heads = _heads(outcome)
    rows = ["| architecture | choices | " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * len(heads)]
    for trial in outcome.front[:SHOWN]:
        name, *cells = _cells(outcome, trial)
        rows.append(" | ".join((f"| {as_code(name)}", *cells)) + " |")
    if len(outcome.front) > SHOWN:
        rows += ["", f"The first {SHOWN} of {len(outcome.front)}; all are in `front.csv`."]
    return rows


def _named(space: SearchSpace, trial: Trial) -> dict[str, Any]:
    return {"architecture": space.encode(trial.architecture), "choices": space.describe(trial.architecture)}


def _heads(outcome: SearchOutcome) -> list[str]:
    """The heads of the columns of figures."""
    return [*(o.head for o in outcome.columns), *(["trainings"] if outcome.trainings else [])]


def _cells(outcome: SearchOutcome, trial: Trial) -> list[str]:
    """A row for people."""
    figures = [o.text(trial.values[o.name]) for o in outcome.columns]
    if outcome.trainings:
        figures.append(str(outcome.trainings.get(trial.architecture, 0)))
    return [*_named(outcome.space, trial).values(), *figures]


def _write_csv(path: Path, outcome: SearchOutcome, trials: Sequence[Trial], means: bool = False) -> None:
    """A row for each trial; ``means`` adds how many trainings each has, if any were trained."""
    names, rows = [o.name for o in outcome.columns], []
    for t in trials:
        values = [{**t.known, **t.values}.get(name, "") for name in names]
        more = [t.feasible, t.images, t.stage, t.draw, t.epochs, t.stopped, f"{t.seconds:.4f}", t.failed]
        more += [outcome.trainings.get(t.architecture, 0)] if means and outcome.trainings else []
        rows.append([t.number, *_named(outcome.space, t).values(), *values, *more])
    head = ["trial", "architecture", "choices", *names, "feasible", "images", "stage", "draw", "epochs", "stopped"]
    head += ["seconds", "failed", *(["trainings"] if means and outcome.trainings else [])]
    write_csv(path, head, rows)


def _write_board(
    folder: Path, settings: SearchRunSettings, outcome: SearchOutcome, page: str, drawn: dict[str, bytes]
) -> None:
    curves = {f"{OVERVIEW}best_{o.name}": outcome.best_so_far(o) for o in outcome.objectives}
    if len(outcome.objectives) > 1:
        curves[f"{OVERVIEW}hypervolume"] = hypervolume_curve(outcome.points())
    with closing(Writers(folder, ["tensorboard"] if settings.search.tensorboard else [])) as board:
        board.hparams(flat(asdict(settings)), changed(settings) - {"run"})
        for i, trial in enumerate(outcome.feasible):
            values = {f"trial/{name}": value for name, value in trial.values.items()}
            board.scalars(trial.number + 1, {**values, **{tag: curve[i] for tag, curve in curves.items()}})
        if (verdict := outcome.verdict) is not None:
            found = {"difference": verdict.difference, "low": verdict.low, "high": verdict.high}
            board.scalars(len(outcome.trials), {f"verdict/{name}": value for name, value in found.items()})
        board.text("report", page, len(outcome.trials))
        for name, content in drawn.items():
            board.image(PLOTS + name, content, len(outcome.trials))
