"""Proposals by Optuna's samplers, by ask and tell on a copy of the study in memory.

The copy keeps an ask cheap, and lets it be taken back: an architecture that was there before, or breaks a limit,
leaves no trace in the journal, and the nearest one that is allowed takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.search.limits import Limits
from nas.search.propose import Proposer
from nas.seeds import derive
from nas.space import Architecture, SearchSpace

POPULATION = 32
"""Of NSGA-II."""

Distributions = dict[str, BaseDistribution]


def distributions(space: SearchSpace) -> Distributions:
    """One categorical parameter a slot; a choice is its index and its name."""
    return {
        slot.name: CategoricalDistribution([f"{i} {name}" for i, name in enumerate(slot.choices)])
        for slot in space.slots
    }


def params_of(space: SearchSpace, architecture: Architecture) -> dict[str, Any]:
    """An architecture as Optuna's parameters."""
    pairs = zip(space.slots, architecture, strict=True)
    return {slot.name: f"{choice} {slot.choices[choice]}" for slot, choice in pairs if isinstance(choice, int)}


def architecture_of(space: SearchSpace, params: dict[str, Any]) -> Architecture:
    """Optuna's parameters as an architecture."""
    return tuple(int(params[slot.name].split(" ")[0]) for slot in space.slots)


class Asked(Proposer):
    """Asks TPE or NSGA-II, with a sampler that is seeded anew for each proposal.

    Args:
        directions: of the objectives.
    """

    def __init__(
        self, name: str, space: SearchSpace, limits: Limits, seed: int, directions: Sequence[StudyDirection]
    ) -> None:
        super().__init__(space, limits, seed)
        self._name, self._distributions = name, distributions(space)
        self._storage = optuna.storages.InMemoryStorage()
        self._copy = optuna.create_study(storage=self._storage, directions=directions)
        self._study_id = self._storage.get_study_id_from_name(self._copy.study_name)
        self._ids: dict[int, int] = {}  # of a trial in the copy, by its number in the journal
        self._open: set[int] = set()  # numbers in the journal of what is not finished in the copy

    def learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Take over what the journal knows by now."""
        for trial in trials:
            if trial.number not in self._ids:
                self._add(trial.number, trial)
            elif trial.number in self._open and trial.state.is_finished():
                self._finish(trial)

    def __call__(self, number: int, taken: Set[Architecture]) -> Architecture | None:
        self._copy.sampler = self._sampler(derive(self.seed, "search", number) % 2**32)
        asked = self._copy.ask(self._distributions)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, asked.number)
        if self._name == "nsga2":
            self.notes = dict(self._storage.get_trial(trial_id).system_attrs)  # its generation
        wanted = architecture_of(self.space, asked.params)
        if wanted not in taken and self.limits.within(wanted):
            self._ids[number] = trial_id
            self._open.add(number)
            return wanted
        self._copy.tell(asked.number, state=TrialState.FAIL)  # which no sampler looks at
        found = self.nearest(number, wanted, taken)  # another ask would cost more and mostly give the same
        if found is not None:
            params = params_of(self.space, found)
            self._add(number, create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions))
        return found

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self._name == "nsga2":
            return _KnownNSGAII(self._distributions, population_size=POPULATION, seed=seed)
        return _KnownTPE(self._distributions, multivariate=True, seed=seed)

    def _add(self, number: int, trial: FrozenTrial) -> None:
        self._ids[number] = self._storage.create_new_trial(self._study_id, trial)
        if not trial.state.is_finished():
            self._open.add(number)

    def _finish(self, trial: FrozenTrial) -> None:
        trial_id = self._ids[trial.number]
        for key, value in trial.system_attrs.items():  # its constraints, and its generation
            self._storage.set_trial_system_attr(trial_id, key, value)
        self._storage.set_trial_state_values(trial_id, trial.state, trial.values)
        self._open.discard(trial.number)


class _Known:
    """The space is known from the start: no need to go through all trials to find what they have in common."""

    def __init__(self, known: Distributions, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._known = {name: each for name, each in known.items() if not each.single()}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return self._known


class _KnownTPE(_Known, TPESampler):
    pass


class _KnownNSGAII(_Known, NSGAIISampler):
    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        # Optuna gives the parents by rank when it has just chosen them, later by number; a search that goes on after
        # a stop chooses them again, and has to draw from the same list.
        return sorted(super().get_parent_population(study, generation), key=lambda trial: trial.number)
