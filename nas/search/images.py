"""A search's images for the files and for TensorBoard: its front, and how it grew."""

from __future__ import annotations

from collections.abc import Sequence

from nas.draw import Axis, Points, draw_curve, draw_front, draw_values
from nas.search.objectives import Objective, points
from nas.search.outcome import SearchOutcome
from nas.search.pareto import hypervolume_curve
from nas.search.proposers import Trial


def images(outcome: SearchOutcome) -> dict[str, bytes]:
    """PNGs by name, of a search in which something is feasible."""
    objectives, feasible = outcome.objectives, outcome.feasible
    broken = [t for t in outcome.trials if not t.feasible and t.values]
    axes = [Axis(o.label, o.smaller_is_better) for o in objectives]

    def rows(trials: Sequence[Trial]) -> list[list[float]]:
        return [[o.scale * t.values[o.name] for o in objectives] for t in trials]

    def by_trial(trials: Sequence[Trial]) -> dict[int, float]:
        return {t.number + 1: row[0] for t, row in zip(trials, rows(trials), strict=True)}

    if len(objectives) == 1:
        best = [objectives[0].scale * value for value in best_so_far(objectives[0], feasible)]
        return {"front": draw_values(axes[0], by_trial(feasible), by_trial(broken), best)}
    best_row = rows([outcome.best])[0] if outcome.best is not None else None
    front = draw_front(axes, Points(rows(feasible), rows(broken), rows(outcome.front), best_row))
    curve = hypervolume_curve(points(objectives, [t.values for t in feasible]))
    numbers = [*(t.number + 1 for t in feasible), outcome.trials[-1].number + 1]
    return {"front": front, "hypervolume": draw_curve(numbers, [*curve, curve[-1]], *outcome.corner_texts())}


def best_so_far(one: Objective, trials: Sequence[Trial]) -> list[float]:
    """The best value up to each trial."""
    best: list[float] = []
    for trial in trials:
        value = trial.values[one.name]
        best.append(value if not best or one.oriented(value) < one.oriented(best[-1]) else best[-1])
    return best
