"""Proposals by Optuna's samplers."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.search.objectives import Limits, Objective
from nas.search.proposers import Proposer, Trial
from nas.seeds import derive
from nas.space import Architecture, SearchSpace

POPULATION = 32
"""Architectures in a generation of NSGA-II."""
Distributions = dict[str, BaseDistribution]


class OptunaProposer(Proposer):
    """Asks TPE or NSGA-II, with a sampler that is seeded afresh for each proposal.

    It keeps a study in memory. A proposal that was there before or breaks a limit is taken back, and the nearest
    allowed architecture takes its place.

    Args:
        name: ``tpe`` or ``nsga2``.
        space, limits, seed: as in :class:`Proposer`.
        objectives: what the study optimises.

    Attributes:
        study: all trials that it was told about, as Optuna's own tools take them. A slot's parameter is the index of
            its choice.
    """

    def __init__(
        self, name: str, space: SearchSpace, limits: Limits, seed: int, objectives: Sequence[Objective]
    ) -> None:
        super().__init__(space, limits, seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._name, self._objectives = name, objectives
        self._distributions: Distributions = {
            slot.name: CategoricalDistribution(range(len(slot.choices))) for slot in space.slots
        }
        directions = [StudyDirection.MINIMIZE if o.smaller_is_better else StudyDirection.MAXIMIZE for o in objectives]
        self._storage = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(storage=self._storage, directions=directions)
        self._study_id = self._storage.get_study_id_from_name(self.study.study_name)
        self._ids: dict[int, int] = {}  # of a trial in this study, by its own number
        self._open: set[int] = set()  # numbers of the trials that this study has not seen finished

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            if trial.number not in self._ids:
                self._add(trial)
            if trial.finished and trial.number in self._open:
                self._finish(trial)

    def ask(self, number: int, taken: Set[Architecture]) -> Trial | None:
        self.study.sampler = self._sampler(derive(self.seed, "search", number) % 2**32)
        asked = self.study.ask(self._distributions)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, asked.number)
        notes = dict(self._storage.get_trial(trial_id).system_attrs) if self._name == "nsga2" else {}  # its generation
        wanted = tuple(asked.params[slot.name] for slot in self.space.slots)
        if wanted not in taken and self.limits.within(wanted):
            self._ids[number] = trial_id
            self._open.add(number)
            return Trial(number, wanted, notes=notes)
        self.study.tell(asked.number, state=TrialState.FAIL)  # which no sampler looks at
        found = self.nearest(number, wanted, taken)  # another ask would cost more and mostly give the same
        if found is None:
            return None
        trial = Trial(number, found, notes=notes)
        self._add(trial)
        return trial

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self._name == "nsga2":
            return _NSGAII(self._distributions, population_size=POPULATION, seed=seed)
        return _TPE(self._distributions, multivariate=True, seed=seed)

    def _add(self, trial: Trial) -> None:
        params = {slot.name: choice for slot, choice in zip(self.space.slots, trial.architecture, strict=True)}
        running = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=self._distributions,
            system_attrs=trial.notes,
        )
        self._ids[trial.number] = self._storage.create_new_trial(self._study_id, running)
        self._open.add(trial.number)

    def _finish(self, trial: Trial) -> None:
        trial_id = self._ids[trial.number]
        self._open.discard(trial.number)
        if trial.failed:
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
            return
        for name, violation in self.limits.violations(trial.values).items():
            self._storage.set_trial_system_attr(trial_id, f"constraints:{name}", violation)
        values = [trial.values[o.name] for o in self._objectives]
        self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, values)


class _KnownSpace:
    """The search space is known from the start: Optuna need not intersect those of all trials."""

    def __init__(self, distributions: Distributions, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._known = {name: each for name, each in distributions.items() if not each.single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Distributions:
        return self._known


class _TPE(_KnownSpace, TPESampler):
    pass


class _NSGAII(_KnownSpace, NSGAIISampler):
    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        # Optuna gives the parents by rank when it has just chosen them, later by number. A search that goes on after
        # a stop chooses them again, and has to draw from the same list.
        return sorted(super().get_parent_population(study, generation), key=lambda trial: trial.number)
