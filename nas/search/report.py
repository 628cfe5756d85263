"""What a search leaves: tables, pictures, a page in Markdown, curves in TensorBoard, and a file for other commands."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import optuna
from rich.table import Table

from nas.files import write_whole
from nas.search.objectives import COSTS, JUDGED, LATENCY, Objective, objective, points
from nas.search.pareto import hypervolume_curve
from nas.search.pictures import best_so_far, draw_front, draw_hypervolume, image, png
from nas.search.result import FILE, RANK_SUM, Found, SearchResult, corner_texts, row, write_result
from nas.search.study import Trial
from nas.search.subject import checkpoint_path
from nas.settings.compare import flat
from nas.track import Writer
from nas.train.checkpoint import versions

if TYPE_CHECKING:
    from nas.search.run import Search

SHOWN = 40
"""Rows that a table has at most; the files have all."""


def write_report(run: Search, found: Found) -> None:
    """Write everything into the folder of the search; each file whole or not at all.

    The same trials give the same files, so that every process that worked on a search may write them.
    """
    folder, space = run.folder, run.subject.space
    write_whole(folder / "trials.csv", _csv(run, found, found.trials))
    write_whole(folder / "front.csv", _csv(run, found, found.front))
    pictures = {}
    if found.feasible:
        pictures["front"] = png(draw_front(found))
        if len(found.objectives) > 1:
            pictures["hypervolume"] = png(draw_hypervolume(found))
    for name, content in pictures.items():
        write_whole(folder / f"{name}.png", content)
    page = markdown(run, found, list(pictures))
    write_whole(folder / "report.md", page)
    _write_board(run, found, page, pictures)
    if found.best is None:
        (folder / FILE).unlink(missing_ok=True)
        return
    path = checkpoint_path(run.subject)
    result = SearchResult(
        checkpoint=None if path is None else str(path),
        checkpoint_digest=run.subject.digest,
        space=asdict(run.subject.space_settings),
        data=asdict(run.subject.data_settings),
        objectives=[o.name for o in found.objectives],
        best=space.encode(found.best.architecture),
        values=found.best.values,
        front=[row(space, trial) for trial in found.front],
        evaluated=len(found.trials),
    )
    write_result(folder, result)


def columns_of(found: Found) -> list[Objective]:
    """What a table shows: the objectives, then whatever else is known of every trial."""
    names = [o.name for o in found.objectives]
    known = found.feasible[0].values if found.feasible else {}
    return [*found.objectives, *(objective(name) for name in known if name not in names)]


def front_table(run: Search, found: Found) -> Table:
    """The front for a terminal."""
    named = ", ".join(o.name for o in found.objectives)
    title = f"Pareto front of {named}" if len(found.objectives) > 1 else f"Best {named}"
    table = Table(title=title, title_justify="left")
    table.add_column("architecture", overflow="fold")
    table.add_column("choices", overflow="fold")
    columns = columns_of(found)
    for one in columns:
        table.add_column(one.head, justify="right")
    for trial in found.front[:SHOWN]:
        cells = row(run.subject.space, trial)
        mark = " *" if trial == found.best else ""
        table.add_row(
            cells["architecture"] + mark, cells["choices"], *(one.text(trial.values[one.name]) for one in columns)
        )
    left = f"the first {SHOWN} of {len(found.front)}; front.csv has all. " if len(found.front) > SHOWN else ""
    table.caption = f"{left}* best by {best_by(run)}" if found.best in found.front[:SHOWN] else left or None
    return table


def best_by(run: Search) -> str:
    """What makes the best one, for people."""
    how = run.settings.search.rank_by or run.objectives[0].name
    return "the sum of ranks" if how == RANK_SUM else how


def summary(run: Search, found: Found) -> list[str]:
    """What was done and found, in lines."""
    space, feasible = run.subject.space, len(found.feasible)
    broken = sum(not t.feasible and not t.failed for t in found.trials)
    failed = [t for t in found.trials if t.failed]
    lines = [f"{len(found.trials):,} of {space.size:,} architectures evaluated, {feasible:,} within the limits"]
    if run.study.used_up and len(found.trials) < (run.trials or space.size):
        lines.append(
            "no architecture is left that keeps the limits" if run.limits.bounds else "no architecture is left"
        )
    if broken:
        lines.append(f"{broken:,} were evaluated and found to break a limit")
    if failed:
        lines.append(f"{len(failed):,} have no values; the last: {failed[-1].failed}")
    lines += [f"{name} are left out: {reason}" for name, reason in run.measures.left_out.items()]
    if found.best is not None:
        values = ", ".join(f"{o.head} {o.text(found.best.values[o.name])}" for o in columns_of(found))
        lines.append(f"best by {best_by(run)}: {space.encode(found.best.architecture)}  {values}")
    return lines


def markdown(run: Search, found: Found, pictures: Sequence[str]) -> str:
    """The report as a page."""
    subject, how = run.subject, run.settings.search
    trained = subject.trained
    what = f"`{trained.path}` (SHA-256 `{subject.digest}`, step {trained.step:,})" if trained else "untrained networks"
    columns = columns_of(found)
    lines = [f"# Search {run.folder.name}", "", f"Space `{subject.space.name}`, {what}.", ""]
    lines += [f"- {line}" for line in summary(run, found)]
    lines += ["", "## Front", "", "| architecture | choices | " + " | ".join(o.head for o in columns) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(columns))
    for trial in found.front[:SHOWN]:
        cells = row(subject.space, trial)
        values = " | ".join(o.text(trial.values[o.name]) for o in columns)
        name = cells["architecture"].replace("|", "\\|")  # a cell's name is made of bars
        lines.append(f"| `{name}` | {cells['choices']} | {values} |")
    if len(found.front) > SHOWN:
        lines += ["", f"The first {SHOWN} of {len(found.front)}; all are in `front.csv`."]
    for name in pictures:
        lines += ["", f"![{name}]({name}.png)"]
    lines += ["", "## How it was measured", "", *(f"- {line}" for line in how_measured(run, found))]
    settings = flat({"checkpoint": run.settings.checkpoint or None, "seed": run.settings.seed, "search": asdict(how)})
    lines += ["", "## Settings", "", "| setting | value |", "| --- | --- |"]
    lines += [f"| {key} | {value} |" for key, value in settings.items()]
    used = {**versions(), "optuna": optuna.__version__, "matplotlib": matplotlib.__version__}
    lines += ["", ", ".join(f"{name} {version}" for name, version in used.items()), ""]
    return "\n".join(lines)


def how_measured(run: Search, found: Found) -> list[str]:
    """What the numbers mean, a line for each that is there."""
    how, subject = run.settings.search, run.subject
    names = {o.name for o in columns_of(found)}
    lines = []
    if names & JUDGED.keys():
        pictures = len(subject.splits.val if how.split == "val" else subject.splits.test)
        anew = subject.recalibrates(how.recalibrate)
        norms = "statistics estimated anew for each" if anew else "the supernet's running statistics"
        norms += " (as the run judges)" if how.recalibrate is None else f" (search.recalibrate={str(anew).lower()})"
        tuned = f", after {how.finetune_steps} steps of fine-tuning" if how.finetune_steps else ""
        lines.append(f"accuracy and loss: {pictures:,} {how.split} pictures, BatchNorm with {norms}{tuned}")
        if how.recalibrate is not None and anew != subject.recalibrates(None):
            lines.append("nas-export writes the BatchNorm statistics that the run judges with, not these")
        if how.finetune_steps:
            lines.append("nas-export writes the supernet's weights, not the fine-tuned ones")
    lines += ["flops and parameters: of the stand-alone network"] if names & COSTS.keys() else []
    if LATENCY.name in names:
        threads = f"{how.latency_threads} thread{'s' if how.latency_threads > 1 else ''}"
        lines.append(f"latency: median of a forward pass, batch {how.latency_batch}, {threads}, this machine's CPU")
    if proxies := [n for n in names if n not in JUDGED and n not in COSTS and n != LATENCY.name]:
        lines.append(f"{', '.join(sorted(proxies))}: initial weights, batches of {how.proxy_images} training pictures")
    if len(found.objectives) > 1 and found.feasible:
        ideal, reference = corner_texts(found)
        lines.append(
            f"hypervolume: share of the box between the ideal point ({ideal}) and the reference point ({reference}), "
            "which is the worst of everything evaluated and a tenth of the range more"
        )
    return [*lines, f"{sum(t.seconds for t in found.trials):,.1f} s of evaluation"]


def _csv(run: Search, found: Found, trials: Sequence[Trial]) -> str:
    text = io.StringIO()
    names = [o.name for o in columns_of(found)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "architecture", "choices", *names, RANK_SUM, "feasible", "seconds", "failed"])
    for t in trials:
        cells = row(run.subject.space, t)
        values = [t.values.get(name, "") for name in names]
        more = [found.rank_sums.get(t.number, ""), t.feasible, f"{t.seconds:.4f}", t.failed]
        writer.writerow([t.number, cells["architecture"], cells["choices"], *values, *more])
    return text.getvalue()


def _write_board(run: Search, found: Found, page: str, pictures: dict[str, bytes]) -> None:
    curves = {f"search/best_{o.name}": best_so_far(o, found.feasible) for o in found.objectives}
    if len(found.objectives) > 1:
        curves["search/hypervolume"] = hypervolume_curve(points(found.objectives, [t.values for t in found.feasible]))
    with closing(Writer(run.folder, run.settings.search.tensorboard)) as board:
        for i, trial in enumerate(found.feasible):
            values = {f"trial/{name}": value for name, value in trial.values.items()}
            board.scalars(trial.number + 1, {**values, **{tag: curve[i] for tag, curve in curves.items()}})
        last = len(found.trials)
        board.text("report", page, last)
        for name, content in pictures.items():
            board.image(name, image(content), last)


def files(folder: Path) -> list[str]:
    """The names of what a search has left that a person may want to open."""
    names = ("report.md", "front.csv", "trials.csv", "front.png", "hypervolume.png", FILE)
    return [name for name in names if (folder / name).exists()]
