"""What a search found: picked out of its trials, and as a file for whoever goes on from there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.errors import CheckpointError
from nas.files import write_whole
from nas.score import rank_sum
from nas.search.objectives import COSTS, LATENCY, Objective, points
from nas.search.pareto import corners, front
from nas.search.study import Trial
from nas.settings.plain import filled
from nas.space import SearchSpace

RANK_SUM = "rank_sum"
FILE = "result.json"


@dataclass(frozen=True)
class Found:
    """The trials of a search, sorted out.

    Attributes:
        trials: all finished ones, by number.
        front: the feasible ones that no other dominates, best by the first objective first.
        best: by ``rank_by``, among the feasible ones; None where there is none.
        rank_sums: by trial number, larger is better; of the objectives that are no costs.
    """

    objectives: list[Objective]
    trials: list[Trial]
    front: list[Trial]
    best: Trial | None
    rank_sums: dict[int, float]

    @property
    def feasible(self) -> list[Trial]:
        """Those that were evaluated and keep all limits."""
        return [trial for trial in self.trials if trial.feasible]


def sort_out(objectives: list[Objective], trials: Sequence[Trial], rank_by: str) -> Found:
    """Find front and best.

    Args:
        trials: finished or not.
        rank_by: the name of an objective, ``rank_sum``, or empty for the first objective.
    """
    finished = [trial for trial in trials if trial.finished]
    feasible = [trial for trial in finished if trial.feasible]
    on_front = [feasible[i] for i in front(points(objectives, [t.values for t in feasible]))]
    on_front.sort(key=lambda t: (*points(objectives, [t.values])[0], t.number))
    sums = _rank_sums(objectives, feasible)
    key = next((o for o in objectives if o.name == rank_by), objectives[0])
    if rank_by == RANK_SUM:
        best = max(feasible, key=lambda t: (sums[t.number], -t.number), default=None)
    else:
        best = min(feasible, key=lambda t: (key.oriented(t.values[key.name]), t.number), default=None)
    return Found(objectives, finished, on_front, best, sums)


def _rank_sums(objectives: list[Objective], feasible: list[Trial]) -> dict[int, float]:
    quality = [o for o in objectives if o.name not in COSTS and o != LATENCY] or objectives
    if not feasible:
        return {}
    columns = {o.name: [trial.values[o.name] for trial in feasible] for o in quality}
    sums = rank_sum(columns, {o.name: not o.smaller_is_better for o in quality})
    return {trial.number: total for trial, total in zip(feasible, sums, strict=True)}


def corner_texts(found: Found) -> tuple[str, str]:
    """The ideal and the reference point of the hypervolume, for people."""
    ends = corners(points(found.objectives, [trial.values for trial in found.feasible]))
    ideal, reference = (
        ", ".join(f"{o.head} {o.text(o.oriented(x))}" for o, x in zip(found.objectives, end, strict=True))
        for end in ends
    )
    return ideal, reference


@dataclass(frozen=True)
class SearchResult:
    """What a finished search says to other commands.

    Attributes:
        checkpoint: that was searched; None where untrained networks were looked at.
        checkpoint_digest: its SHA-256, in hexadecimal.
        space, data: settings of both, as plain data.
        objectives: names, in order.
        best: the best architecture, as text.
        values: what was found of it, by name.
        front: for each architecture of the Pareto front ``architecture``, ``choices`` and ``values``.
        evaluated: number of architectures.
    """

    checkpoint: str | None
    checkpoint_digest: str | None
    space: dict[str, Any]
    data: dict[str, Any]
    objectives: list[str]
    best: str
    values: dict[str, float]
    front: list[dict[str, Any]]
    evaluated: int


def write_result(folder: Path, result: SearchResult) -> None:
    """Write ``result.json``, whole or not at all."""
    write_whole(folder / FILE, json.dumps(asdict(result), indent=1, allow_nan=False) + "\n")


def read_result(folder: Path | str) -> SearchResult:
    """What the search in ``folder`` has found.

    Raises:
        CheckpointError: it has not ended, has found nothing within its limits, or its file cannot be read.
    """
    path = Path(folder) / FILE
    try:
        return filled(SearchResult, json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        what = "found nothing within its limits" if (Path(folder) / "report.md").exists() else "has left no result"
        raise CheckpointError("search", folder, what, "finish the search, with limits that can be kept") from None
    except (ValueError, RecursionError) as error:
        rule = f"its {FILE} cannot be read ({str(error)[:200]})"
        raise CheckpointError("search", folder, rule, "start the same search again: it writes it anew") from None


def row(space: SearchSpace, trial: Trial) -> dict[str, Any]:
    """A trial as plain data."""
    architecture = trial.architecture
    return {
        "architecture": space.encode(architecture),
        "choices": space.describe(architecture),
        "values": trial.values,
    }
