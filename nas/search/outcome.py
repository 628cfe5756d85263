"""What a search found: its front and its best architecture, and a file that says so to other commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nas.errors import CheckpointError
from nas.files import write_whole
from nas.score import rank_sum
from nas.search.objectives import COSTS, LATENCY, Objective, objective, points
from nas.search.pareto import corners, front
from nas.search.proposers import Trial
from nas.settings.plain import filled
from nas.space import SearchSpace

RANK_SUM = "rank_sum"
FILE = "result.json"


@dataclass(frozen=True)
class SearchOutcome:
    """The finished trials of a search, and the best among them.

    Attributes:
        trials: all finished ones, by number.
        front: the feasible ones that no other dominates, best by the first objective first.
        best: the best feasible one; None if none is feasible.
        best_by: what makes it the best, for people.
        rank_sums: by trial number, larger is better; over the objectives that are no costs.
        remarks: how the trials came about, in lines.
    """

    space: SearchSpace
    objectives: list[Objective]
    trials: list[Trial]
    front: list[Trial]
    best: Trial | None
    best_by: str
    rank_sums: dict[int, float]
    remarks: Sequence[str] = field(default=())

    @property
    def feasible(self) -> list[Trial]:
        """The trials that were evaluated and keep all limits."""
        return [trial for trial in self.trials if trial.feasible]

    @property
    def columns(self) -> list[Objective]:
        """What a table shows: the objectives, then whatever else is known of every trial."""
        names = [o.name for o in self.objectives]
        known = self.feasible[0].values if self.feasible else {}
        return [*self.objectives, *(objective(name) for name in known if name not in names)]

    def points(self) -> list[tuple[float, ...]]:
        """The feasible trials as points to be minimised."""
        return points(self.objectives, [trial.values for trial in self.feasible])

    def corner_texts(self) -> tuple[str, str]:
        """The ideal point and the reference point of the hypervolume, for people."""
        ideal, reference = (
            ", ".join(f"{o.head} {o.text(o.oriented(x))}" for o, x in zip(self.objectives, end, strict=True))
            for end in corners(self.points())
        )
        return ideal, reference


def summarize(
    space: SearchSpace,
    objectives: list[Objective],
    trials: Sequence[Trial],
    rank_by: str = "",
    remarks: Sequence[str] = (),
) -> SearchOutcome:
    """Find the front and the best of some trials, finished or not.

    Args:
        rank_by: what makes the best one: the name of an objective, ``rank_sum``, or empty for the first objective.
        remarks: passed on.
    """
    finished = [trial for trial in trials if trial.finished]
    feasible = [trial for trial in finished if trial.feasible]
    place = dict(zip((t.number for t in feasible), points(objectives, [t.values for t in feasible]), strict=True))
    on_front = [feasible[i] for i in front(list(place.values()))]
    on_front.sort(key=lambda t: (*place[t.number], t.number))
    sums = _rank_sums(objectives, feasible)
    key = next((i for i, o in enumerate(objectives) if o.name == rank_by), 0)
    if rank_by == RANK_SUM:
        best = max(feasible, key=lambda t: (sums[t.number], -t.number), default=None)
    else:
        best = min(feasible, key=lambda t: (place[t.number][key], t.number), default=None)
    best_by = "the sum of ranks" if rank_by == RANK_SUM else objectives[key].name
    return SearchOutcome(space, objectives, finished, on_front, best, best_by, sums, remarks)


def _rank_sums(objectives: list[Objective], feasible: list[Trial]) -> dict[int, float]:
    quality = [o for o in objectives if o.name not in COSTS and o != LATENCY] or objectives
    if not feasible:
        return {}
    columns = {o.name: [trial.values[o.name] for trial in feasible] for o in quality}
    sums = rank_sum(columns, {o.name: not o.smaller_is_better for o in quality})
    return {trial.number: total for trial, total in zip(feasible, sums, strict=True)}


@dataclass(frozen=True)
class SearchResult:
    """What a finished search says to other commands, as ``result.json`` has it.

    Attributes:
        checkpoint: the absolute path of the searched checkpoint; None if the networks were untrained.
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
        raise CheckpointError("search", folder, rule, "start the same search again: it writes the file again") from None
