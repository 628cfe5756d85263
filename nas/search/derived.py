"""Objectives that say how an architecture stands among the others: their values depend on all finished trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from nas.errors import SettingError, did_you_mean
from nas.score import PROXIES, rank_sum
from nas.search.objectives import COSTS, EVALUATED, RANK_SUM, SURROGATE, TRAINED, Objective, objective
from nas.search.propose.proposers import SEARCH, Trial
from nas.search.propose.stages import FINAL, trainings_of
from nas.search.propose.surrogate import Column, Surrogate
from nas.settings import SearchSettings
from nas.space import SearchSpace


class Derived:
    """Adds the values of derived objectives to candidates that have been evaluated.

    The values are functions of all finished trials, so no journal keeps them: whoever compares trials derives them
    first, and compares values that belong together.

    Args:
        space: of the trials.
        members: what ``rank_sum`` adds up; none where it is not wanted. Each counts in the direction in which it
            predicts accuracy: more parameters and more FLOPs are better.
        surrogate: whether ``surrogate`` is wanted: what a regression on the trainings of search and finals says. It
            sees choices, costs, and whatever else is known of all candidates, and so takes no evaluation.
    """

    def __init__(self, space: SearchSpace, members: Sequence[Objective] = (), surrogate: bool = False) -> None:
        self._space, self._surrogate = space, surrogate
        self._better_upwards = {one.name: one.name in COSTS or not one.smaller_is_better for one in members}
        self._learned: list[Trial] = []  # what the predictions rest on
        self._predictions: list[float] = []

    def __call__(self, trials: Sequence[Trial]) -> list[Trial]:
        """The same trials in the same order; those of candidates that have values have the derived ones as well."""
        known = [trial for trial in trials if trial.stage == SEARCH and trial.values]
        derived: dict[str, Sequence[float]] = {}
        if known and self._better_upwards:
            columns = {name: [trial.values[name] for trial in known] for name in self._better_upwards}
            derived[RANK_SUM.name] = rank_sum(columns, self._better_upwards)
        if known and self._surrogate:
            derived[SURROGATE.name] = self._predicted(known, [t for t in trials if t.stage == FINAL and t.values])
        more = {t.number: {name: values[i] for name, values in derived.items()} for i, t in enumerate(known)}
        return [replace(t, values={**t.values, **more[t.number]}) if t.number in more else t for t in trials]

    def _predicted(self, known: list[Trial], finals: list[Trial]) -> list[float]:
        """What the regression says of each of ``known``; fitted again only where there is something new to learn."""
        if self._learned != [*known, *finals]:
            self._learned = [*known, *finals]
            longest = max(trial.epochs for trial in known)
            whole = trainings_of([trial for trial in self._learned if trial.epochs == longest])
            architectures = [trial.architecture for trial in known]
            regression = Surrogate(self._space, _columns(known), reference=architectures)
            regression.fit([*whole], [fmean(found) for found in whole.values()], [*map(len, whole.values())])
            self._predictions = regression.predict(architectures)[0].tolist()
        return self._predictions


def _columns(known: Sequence[Trial]) -> dict[str, list[Column]]:
    """What is known of every candidate, as features: its cost, what the supernet says, and each proxy by itself."""
    groups: dict[str, list[Column]] = {}
    for name in known[0].values:
        if name in (*COSTS, *EVALUATED, *PROXIES):
            group = "cost" if name in COSTS else "supernet" if name in EVALUATED else name
            values = {trial.architecture: trial.values[name] for trial in known}
            groups.setdefault(group, []).append(lambda asked, values=values: [values[a] for a in asked])  # type: ignore[misc]
    return groups


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
            raise SettingError("search.sum", name, "is no predictor", did_you_mean(name, sorted(known)))
    return [objective(name) for name in names]
