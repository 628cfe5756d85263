"""What a search found: Pareto front, best architecture and verdict, and a file that says so to other commands."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from nas.errors import CheckpointError
from nas.search.objectives import COSTS, RANK_SUM, TRAINED, Objective, objective, points
from nas.search.pareto import corners, front
from nas.search.propose.proposers import SEARCH, Trial
from nas.search.propose.stages import FINAL, RANDOM, Budget, Stages, trainings_of
from nas.search.trained.verdict import Verdict
from nas.settings.plain import filled
from nas.space import Architecture, SearchSpace

FILE = "result.json"


@dataclass(frozen=True)
class SearchOutcome:
    """The finished trials of a search, and the best among them.

    Attributes:
        trials: all finished ones, by number.
        candidates: those of the search itself. Where networks were trained, ``trained`` is the mean of all trainings
            of a network, those of later stages included.
        front: the feasible candidates that no other dominates, best by the first objective first; of equals the
            cheapest.
        best: the best feasible candidate, of equals the cheapest; None if none is feasible, or none could be trained
            again.
        best_by: what makes it the best, for people.
        remarks: how the trials came about, in lines.
        staged: networks were trained, in stages.
        trainings: of each network that was trained, how many came to their end.
        verdict: on the best one, where networks were trained.
    """

    space: SearchSpace
    objectives: list[Objective]
    trials: list[Trial]
    candidates: list[Trial]
    front: list[Trial]
    best: Trial | None
    best_by: str
    remarks: Sequence[str] = field(default=())
    staged: bool = False
    trainings: Mapping[Architecture, int] = field(default_factory=dict)
    verdict: Verdict | None = None

    def __repr__(self) -> str:
        best = "none" if self.best is None else self.space.encode(self.best.architecture)
        found = f"{len(self.trials):,} trials, {len(self.front)} on the front"
        return f"SearchOutcome({found}, best {best} by {self.best_by})"

    @property
    def feasible(self) -> list[Trial]:
        """The candidates that were evaluated and keep all limits."""
        return [trial for trial in self.candidates if trial.feasible]

    @property
    def columns(self) -> list[Objective]:
        """What a table shows: the objectives, then whatever else is known of every trial."""
        names = [o.name for o in self.objectives]
        known = self.feasible[0].values if self.feasible else {}
        return [*self.objectives, *(objective(name) for name in known if name not in names)]

    @property
    def spent(self) -> Budget | None:
        """The trainings of each stage, those that failed among them; None where no networks were trained."""
        count = Counter(trial.stage for trial in self.trials)
        return Budget(count[SEARCH], count[FINAL], count[RANDOM]) if self.staged else None

    def points(self) -> list[tuple[float, ...]]:
        """The feasible trials as points to be minimised."""
        return points(self.objectives, [trial.values for trial in self.feasible])

    def best_so_far(self, one: Objective) -> list[float]:
        """The best value up to each feasible trial."""
        values = (trial.values[one.name] for trial in self.feasible)
        return list(accumulate(values, lambda *both: min(both, key=one.oriented)))

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
    stages: Stages | None = None,
) -> SearchOutcome:
    """Find the front and the best of some trials, finished or not.

    Args:
        trials: with the values of derived objectives, where there are any.
        rank_by: what makes the best one: the name of an objective, ``rank_sum``, or empty for the first objective.
        remarks: passed on.
        stages: of a search by trainings; the best one is the winner of its finals then.
    """
    finished = [trial for trial in trials if trial.finished]
    trained = {} if stages is None else trainings_of(finished)
    candidates = [_with_mean(trial, trained) for trial in finished if trial.stage == SEARCH]
    feasible = [trial for trial in candidates if trial.feasible]
    place = dict(zip((t.number for t in feasible), points(objectives, [t.values for t in feasible]), strict=True))
    on_front = [feasible[i] for i in front(list(place.values()))]
    on_front.sort(key=lambda t: (place[t.number], _cost(t)))
    on_front = [next(equals) for _, equals in groupby(on_front, key=lambda t: place[t.number])]
    more: dict[str, Any] = {
        "remarks": remarks,
        "trainings": {network: len(found) for network, found in trained.items()},
    }
    if stages is not None:
        won, verdict = stages.winner(finished), stages.verdict(finished)
        best = next((trial for trial in feasible if trial.architecture == won), None)
        best_by = "the mean of search and finals" if stages.budget.finals else "its training in the search"
        more |= {"best_by": best_by, "staged": True, "verdict": verdict}
        return SearchOutcome(space, objectives, finished, candidates, on_front, best, **more)
    by = objective(rank_by) if rank_by else objectives[0]
    best = min(feasible, key=lambda t: (by.oriented(t.values[by.name]), _cost(t)), default=None)
    best_by = "the sum of ranks" if by == RANK_SUM else by.name
    return SearchOutcome(space, objectives, finished, candidates, on_front, best, best_by, **more)


def _with_mean(trial: Trial, trained: Mapping[Architecture, Sequence[float]]) -> Trial:
    if not trial.values or trial.architecture not in trained:
        return trial
    return replace(trial, values={**trial.values, TRAINED.name: fmean(trained[trial.architecture])})


def _cost(trial: Trial) -> tuple[float, ...]:
    """What decides between equals: FLOPs, then parameters, as far as they are known, then who was first."""
    return (*(trial.values.get(name, 0.0) for name in COSTS), trial.number)


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
        weights: of a search by trainings, the folder with the checkpoint of the best one's last training in the finals,
            as seen from the folder of the search; None where there is none.
        verdict: of a search by trainings, the fields of a :class:`~nas.search.trained.verdict.Verdict` and its
            sentence; None where there is none.
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
    verdict: dict[str, Any] | None = None
    weights: str | None = None


def read_result(folder: Path | str) -> SearchResult:
    """What the search in ``folder`` has found.

    Raises:
        CheckpointError: it has not ended, has found nothing within its limits, or its file cannot be read.
    """
    path = Path(folder) / FILE
    try:
        return filled(SearchResult, json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        if not Path(folder).exists():
            raise CheckpointError("search", folder, "does not exist", "name the folder of a search") from None
        what = "found nothing within its limits" if (Path(folder) / "report.md").exists() else "has left no result"
        raise CheckpointError("search", folder, what, "finish the search, with limits that can be kept") from None
    except (ValueError, RecursionError) as error:
        rule = f"its {FILE} cannot be read ({str(error)[:200]})"
        raise CheckpointError("search", folder, rule, "start the same search again: it writes the file again") from None
