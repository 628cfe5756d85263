"""The results of a finished run, as a file and as tables."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.checkpoint import comparable, versions
from nas.console import ResultTable
from nas.draw.names import short_names
from nas.errors import CheckpointError
from nas.files import write_json
from nas.nn import indices_of
from nas.settings.plain import filled
from nas.train.evaluation.confusion import PICTURE, write_confusion
from nas.train.run import Run

SHOWN = 40
"""The most rows of a table; the file has all."""


@dataclass(frozen=True)
class BranchRow:
    """One branch: how its subnetworks do, and how often it ran."""

    slot: str
    choice: str
    test_accuracy: float | None
    """Mean over the evaluated subnetworks that contain it, 0 to 1; None if none does."""
    subnetworks: int
    share: float


@dataclass(frozen=True)
class SubnetRow:
    """One evaluated subnetwork; accuracies are from 0 to 1."""

    architecture: str
    choices: str
    val_accuracy: float
    test_accuracy: float
    val_loss: float | None = None
    """Mean cross-entropy, as the next; None in a report of an older version."""
    test_loss: float | None = None


@dataclass(frozen=True)
class Report:
    """The results of a run. Only here are test images looked at."""

    branches: list[BranchRow]
    subnetworks: list[SubnetRow]
    """Best on validation images first."""
    images_per_s: float
    """Over all training steps, waiting for data included; an image counts once for each path."""
    steps: int
    test_images: int
    device: str
    threads: int
    versions: dict[str, str]
    processes: int = 1
    favourite: str = ""
    """What a gate that learns prefers, one of ``subnetworks``."""
    train_loss: float | None = None
    """Mean over the steps between the last two evaluations; None in a report of an older version."""
    timings: str = ""
    """What was timed to choose how a step is computed."""

    def __repr__(self) -> str:
        best = self.subnetworks[0]
        accuracy = f"val {best.val_accuracy:.1%}, test {best.test_accuracy:.1%}"
        return f"Report({len(self.subnetworks)} subnetworks, best {best.architecture}: {accuracy})"


def make_report(run: Run) -> Report:
    """Evaluate the run's subnetworks on the test split and write ``report.json``, whole or not at all.

    Beside it stands the confusion matrix of the first subnetwork, ``confusion.csv``, and a picture of it where the
    run's writers take pictures.

    If the run has its report already, read that instead. If its writer is still open, its curves end with the
    test accuracy of the first subnetwork.
    """
    report = read_report(run.folder) if (run.folder / "report.json").is_file() else _evaluate(run)
    if run.tracker.writer.is_open:
        # Behind the last checkpoint: a run that goes on, or is looked at again, drops it and is here once more.
        run.tracker.tested(run.step + 1, report.subnetworks[0].test_accuracy, run.folder / PICTURE)
    return report


def _evaluate(run: Run) -> Report:
    with run.threads:
        on_val = run.evaluated or run.evaluate("val")
        on_test = run.evaluate("test", [result.architecture for result in on_val])
    space, branches = run.space, []
    for i, (slot, shares) in enumerate(zip(space.slots, run.tracker.shares(), strict=True)):
        for choice, (name, share) in enumerate(zip(slot.choices, shares, strict=True)):
            found = [result.accuracy for result in on_test if choice in indices_of(result.architecture[i])]
            accuracy = sum(found) / len(found) if found else None
            branches.append(BranchRow(slot.name, name, accuracy, len(found), share))
    pairs = sorted(zip(on_val, on_test, strict=True), key=lambda pair: -pair[0].accuracy)
    subnets = [
        SubnetRow(space.encode(v.architecture), space.describe(v.architecture), v.accuracy, t.accuracy, v.loss, t.loss)
        for v, t in pairs
    ]
    predicted, test, title = pairs[0][1].predicted, run.splits.test, f"{space.name} {subnets[0].architecture}"
    assert predicted is not None
    write_confusion(run.folder, test.labels, predicted, test.classes, title, run.tracker.writer.take_images)
    report = Report(
        branches,
        subnets,
        images_per_s=run.tracker.images_per_s(),
        steps=run.step,
        test_images=len(run.splits.test),
        device=str(run.device),
        threads=run.threads.number,
        versions=versions(),
        processes=run.world.size,
        favourite=space.encode(favourite) if (favourite := run.gate.favourite()) else "",
        train_loss=run.tracker.epoch_loss(),
        timings=run.timings,
    )
    write_json(run.folder / "report.json", {"settings": comparable(run.settings), **asdict(report)})
    return report


def read_report(folder: Path) -> Report:
    """Read the report in a run's folder.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is damaged.
    """
    path = folder / "report.json"
    try:
        data: Any = json.loads(path.read_text())
        if isinstance(data, dict):
            data.pop("settings", None)
        report = filled(Report, data)
        if not report.subnetworks:
            raise ValueError("it has no subnetworks")
        return report
    except (ValueError, RecursionError) as error:
        remedy = "delete it and start the run's command again, which writes it again"
        raise CheckpointError("run", path, f"cannot be read ({str(error)[:200]})", remedy) from None


def best_of_run(path: Path | str) -> str:
    """The subnetwork, as text, that was best on validation images among those that a run evaluated at its end.

    Args:
        path: the run's folder, or a checkpoint in it.

    Raises:
        CheckpointError: the run has left no report, or one that cannot be read.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        return read_report(folder).subnetworks[0].architecture
    except FileNotFoundError:
        rule = f"there is no report.json in {folder} to say which subnetwork is best"
        remedy = "finish the run, or name one, as in 1-0-2"
    except CheckpointError as error:
        rule, remedy = f"{error.value} {error.rule}", "name the architecture, as in 1-0-2"
    raise CheckpointError("architecture", "best", rule, remedy)


def tables(report: Report) -> list[ResultTable]:
    """The report for a terminal."""
    slots = list(dict.fromkeys(row.slot for row in report.branches))
    opened = any("+" in subnet.architecture for subnet in report.subnetworks)
    short, several = dict(zip(slots, short_names(slots), strict=True)), len(slots) > 1 or opened
    title = f"Branches: accuracy on {report.test_images} test images"
    figures = [
        *(["mean accuracy", "of subnetworks"] if several else ["accuracy"]),
        f"share of {'runs' if opened else 'steps'}",
    ]
    branches = ResultTable(title, ["slot", "branch"], figures)
    for row in report.branches[:SHOWN]:
        accuracy = "-" if row.test_accuracy is None else f"{row.test_accuracy:.1%}"
        middle = [accuracy, str(row.subnetworks)] if several else [accuracy]
        branches.add_row(short[row.slot], row.choice, *middle, f"{row.share:.1%}")
    _say_what_is_left(branches, len(report.branches))
    if not several:
        return [branches]
    title = "Subnetworks: best on validation images first"
    subnets = ResultTable(title, ["architecture", "choices"], ["val accuracy", "test accuracy"])
    for subnet in report.subnetworks[:SHOWN]:
        choices = subnet.choices + " (the gate's favourite)" * (subnet.architecture == report.favourite)
        subnets.add_row(subnet.architecture, choices, f"{subnet.val_accuracy:.1%}", f"{subnet.test_accuracy:.1%}")
    _say_what_is_left(subnets, len(report.subnetworks))
    return [branches, subnets]


def _say_what_is_left(table: ResultTable, rows: int) -> None:
    if rows > SHOWN:
        table.caption = f"the first {SHOWN} of {rows} rows; report.json has all"
