"""Retraining one subnetwork, from scratch and from inherited weights, beside a random one of the same FLOPs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nas.checkpoint import Initial, Trained, agreed, calibrated, comparable, load_trained, plain_network, saved
from nas.console import ResultTable
from nas.cost import PathFlops, count_parameters
from nas.cost.flops_match import TOLERANCE, flops_match
from nas.data import identified, load_splits
from nas.errors import CheckpointError
from nas.files import write_json
from nas.nn import indices_of
from nas.settings import FixedGateSettings, TrainRunSettings
from nas.space import Architecture, SearchSpace, build_space, check_supernet
from nas.threads import set_threads
from nas.track.tags import MEAN_ACCURACY
from nas.train.loop import fit
from nas.train.report import make_report
from nas.train.run import Run


@dataclass(frozen=True)
class Part:
    """One of the trainings.

    Attributes:
        name: ``scratch``, ``inherited`` or ``random``; its folder has the same name.
        architecture: what is trained.
        flops: of a forward pass of one image, 2 x multiply-accumulates.
        parameters: number of parameters of the subnetwork.
        initial: the weights that it inherits, if any.
    """

    name: str
    architecture: Architecture
    flops: int
    parameters: int
    initial: Initial | None = None


@dataclass(frozen=True)
class Row:
    """The result of one training; accuracies are from 0 to 1."""

    name: str
    architecture: str
    choices: str
    flops: int
    parameters: int
    initial_val_accuracy: float
    """Before the first step."""
    val_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Retraining:
    """The results of all trainings."""

    rows: list[Row]
    checkpoint: str
    """The checkpoint whose weights were inherited; empty if there was none."""
    checkpoint_sha256: str

    @property
    def flops_apart(self) -> float | None:
        """How many more FLOPs the random architecture has, 0.01 for one percent; None if the space has no other."""
        own, last = self.rows[0], self.rows[-1]
        return last.flops / own.flops - 1 if last.name == "random" and own.flops else None


def retrain(
    settings: TrainRunSettings,
    folder: Path,
    config_text: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Retraining:
    """Train ``settings.architecture`` and what it is compared with, each alone, and write ``retrain.json``.

    Each training is a :class:`Run` with a fixed gate in a folder of its own, and goes on where it was stopped. It is
    evaluated with its running BatchNorm statistics, whatever ``evaluate.recalibrate`` says: a network that is trained
    alone has statistics of its own, unlike the paths of a supernet.

    Args:
        settings: the settings of the trainings; ``architecture`` is text.
        folder: where each training gets a folder.
        config_text: the settings as YAML, for TensorBoard.
        say: is called with a line before each training.

    Raises:
        NasError: settings, data, checkpoints or the architecture are not usable; nothing was written.
        Interrupted: SIGINT or SIGTERM came; the training is saved.
        DivergedError: a loss stopped being finite.
    """
    if saved(folder):
        raise CheckpointError("run", folder, "is the run of a supernet", "take another run=NAME")
    set_threads(settings.train.threads)
    trained, settings = None, replace(settings, data=identified(settings.data))
    if settings.checkpoint:
        factory = ",".join(settings.space.called)  # which the user has named
        trained = load_trained(settings.checkpoint, settings.track.progress, factory, settings.data)
        settings = agreed(settings, trained.settings, "checkpoint", settings.checkpoint)
    digest = trained.digest if trained else ""
    space, parts = _plan(settings, trained, digest)
    rows = []
    for part in parts:
        run = Run(
            _with_fixed_gate(settings, space.encode(part.architecture)), folder / part.name, config_text, part.initial
        )
        with closing(run.tracker.writer):
            if run.step == 0:
                run.note(run.evaluate("val"))
            begun = f"going on at step {run.step} of {run.total_steps}" if run.step else f"{run.total_steps} steps"
            text = f"{space.encode(part.architecture)} ({space.describe(part.architecture)})"
            say(f"{part.name}: {text}, {part.flops:,} FLOPs, {begun}, on {run.device}; {run.folder}")
            if run.timings:
                say(run.timings)
            fit(run)
            found = make_report(run).subnetworks[0]
        first = _initial_accuracy(run.folder)
        numbers = (part.flops, part.parameters, first, found.val_accuracy, found.test_accuracy)
        rows.append(Row(part.name, found.architecture, found.choices, *numbers))
    result = Retraining(rows, str(trained.path) if trained else "", digest)
    write_json(folder / "retrain.json", {"settings": comparable(settings), **asdict(result)})
    return result


def _like(space: SearchSpace, architecture: Architecture) -> SearchSpace:
    """The space with as many open branches a slot as ``architecture`` has somewhere."""
    return space if space.has_aliases else space.opened(sorted({len(indices_of(entry)) for entry in architecture}))


def _plan(settings: TrainRunSettings, trained: Trained | None, digest: str) -> tuple[SearchSpace, list[Part]]:
    """The space, and the trainings to make in it."""
    splits = trained.splits if trained else load_splits(settings.data, settings.seed, settings.track.progress)
    space = build_space(settings.space, *splits.sizes)
    architecture = space.decode(settings.architecture)
    supernet = space.supernet(settings.seed)
    check_supernet(space, supernet, *splits.sizes)
    pool = _like(space, architecture)
    flops = PathFlops(pool, supernet, splits.input_shape)

    def part(name: str, architecture: Architecture, initial: Initial | None = None) -> Part:
        parameters = count_parameters(plain_network(supernet, architecture, splits.input_shape))
        return Part(name, architecture, flops.count(architecture), parameters, initial)

    parts = [part("scratch", architecture)]
    if trained is not None:
        weights = calibrated(trained, architecture).state_dict()
        parts.append(part("inherited", architecture, Initial(weights, digest)))
    if (other := flops_match(pool, flops, architecture, settings.seed)) is not None:
        parts.append(part("random", other))
    return space, parts


def _with_fixed_gate(settings: TrainRunSettings, architecture: str) -> TrainRunSettings:
    gate, evaluate = FixedGateSettings(architecture=architecture), replace(settings.evaluate, recalibrate=False)
    return replace(settings, gate=gate, evaluate=evaluate, architecture="", checkpoint="", search="")


def _initial_accuracy(folder: Path) -> float:
    """The validation accuracy before the first step, from the curves, where it outlives an interruption."""
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if values["step"] == 0 and MEAN_ACCURACY in values:
            return float(values[MEAN_ACCURACY])
    raise CheckpointError("run", folder, "its metrics.jsonl has no step 0", "take another run=NAME to start over")


def comparison(result: Retraining) -> ResultTable:
    """The trainings side by side, for a terminal."""
    figures = ["FLOPs", "parameters", "val at step 0", "val", "test"]
    table = ResultTable("Trained alone: accuracy", ["training", "architecture", "choices"], figures)
    for row in result.rows:
        accuracies = (f"{value:.1%}" for value in (row.initial_val_accuracy, row.val_accuracy, row.test_accuracy))
        table.add_row(row.name, row.architecture, row.choices, f"{row.flops:,}", f"{row.parameters:,}", *accuracies)
    if result.flops_apart is None:
        table.caption = "this space has no other architecture to compare with"
    else:
        far = "" if abs(result.flops_apart) <= TOLERANCE else f": there is none within {TOLERANCE:.0%}"
        table.caption = f"random: drawn by the seed, {result.flops_apart:+.1%} FLOPs{far}"
    return table
