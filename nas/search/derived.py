"""Objectives that say how an architecture stands among the others: their values depend on all finished trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas.errors import SettingError
from nas.score import PROXIES, rank_sum
from nas.search.objectives import COSTS, EVALUATED, RANK_SUM, TRAINED, Objective, objective
from nas.search.proposers import SEARCH, Trial
from nas.settings import SearchSettings


class Derived:
    """Adds the values of derived objectives to candidates that have been evaluated.

    The values are functions of all finished trials, so no journal keeps them: whoever compares trials derives them
    first, and compares values that belong together.

    Args:
        members: what ``rank_sum`` adds up; none where it is not wanted. Each counts in the direction in which it
            predicts accuracy: more parameters and more FLOPs are better.
    """

    def __init__(self, members: Sequence[Objective] = ()) -> None:
        self._better_upwards = {one.name: one.name in COSTS or not one.smaller_is_better for one in members}

    def __call__(self, trials: Sequence[Trial]) -> list[Trial]:
        """The same trials in the same order; those of candidates that have values have the derived ones as well."""
        known = [trial for trial in trials if trial.stage == SEARCH and trial.values]
        if not (known and self._better_upwards):
            return list(trials)
        columns = {name: [trial.values[name] for trial in known] for name in self._better_upwards}
        sums = rank_sum(columns, self._better_upwards)
        derived = {t.number: {RANK_SUM.name: total} for t, total in zip(known, sums, strict=True)}
        return [replace(t, values={**t.values, **derived.get(t.number, {})}) for t in trials]


def members_of_sum(settings: SearchSettings, supernet: bool) -> list[Objective]:
    """What ``rank_sum`` adds up in a search; nothing where it is not asked for.

    Args:
        settings: of the search.
        supernet: there is a trained one.

    Raises:
        SettingError: one is no predictor.
    """
    names = settings.summed(supernet)
    known = {*EVALUATED, *COSTS, *PROXIES, TRAINED.name}
    for name in names:
        if name not in known:
            raise SettingError("search.sum", name, "is no predictor", f"choose from {', '.join(sorted(known))}")
    return [objective(name) for name in names]
