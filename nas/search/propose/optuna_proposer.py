"""Proposals by Optuna's samplers."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.search.objectives import Limits, Objective
from nas.search.propose.proposers import Proposer, Trial
from nas.seeds import derive
from nas.space import Architecture, SearchSpace

POPULATION = 32
"""Architectures in a generation of NSGA-II."""
Distributions = dict[str, BaseDistribution]


class OptunaProposer(Proposer):
    """Asks TPE or NSGA-II, with a sampler that is seeded afresh for each proposal.

    It keeps a study of the finished trials in memory; with a derived objective, whose values change with every trial,
    it begins a new one for each batch. Where the sampler proposes what was proposed before or breaks a
    limit, the nearest allowed architecture takes its place: another question would cost more and mostly give the same.

    Args:
        name: ``tpe`` or ``nsga2``.
        space, limits, seed: as in :class:`Proposer`.
        objectives: what the study optimises.

    Attributes:
        study: the finished trials that it was told about, as Optuna's own tools take them, and a failed one for each
            question. A slot's parameter is the index of its choice, or of the set of its choices.
    """

    def __init__(
        self, name: str, space: SearchSpace, limits: Limits, seed: int, objectives: Sequence[Objective]
    ) -> None:
        super().__init__(space, limits, seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._name, self._objectives, self._told = name, objectives, set[int]()
        self._distributions: Distributions = {
            slot.name: CategoricalDistribution(range(len(space.entries(i)))) for i, slot in enumerate(space.slots)
        }
        self.study = self._new_study()

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(
            directions=["minimize" if o.smaller_is_better else "maximize" for o in self._objectives]
        )

    def tell(self, trials: Sequence[Trial]) -> None:
        if any(o.derived for o in self._objectives) or any(trial.train_losses for trial in trials):
            self.study, self._told = self._new_study(), set()
        for trial in trials:
            if (trial.values or trial.failed) and trial.number not in self._told:
                self._told.add(trial.number)
                self.study.add_trial(self._as_optunas(trial))

    def ask(self, number: int, taken: Set[Architecture]) -> Trial | None:
        self.study.sampler = self._sampler(derive(self.seed, "search", number) % 2**32)
        # A sampler looks at complete trials alone, so the question is a failed one: :meth:`tell` adds what came of it.
        asked = self.study.tell(self.study.ask(self._distributions), state=TrialState.FAIL)
        chosen = (self.space.entries(i)[asked.params[slot.name]] for i, slot in enumerate(self.space.slots))
        wanted = self.space.canonical(tuple(chosen))
        free = wanted not in taken and self.limits.within(wanted)
        found = wanted if free else self.nearest(number, wanted, taken)
        notes = dict(asked.system_attrs) if self._name == "nsga2" else {}  # its generation
        return None if found is None else Trial(number, found, notes=notes)

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self._name == "nsga2":
            return _NSGAII(self._distributions, population_size=POPULATION, seed=seed)
        return _TPE(self._distributions, multivariate=True, seed=seed)

    def _as_optunas(self, trial: Trial) -> FrozenTrial:
        pairs = enumerate(zip(self.space.slots, trial.architecture, strict=True))
        params = {slot.name: self.space.entries(i).index(entry) for i, (slot, entry) in pairs}
        return create_trial(
            state=TrialState.FAIL if trial.failed else TrialState.COMPLETE,
            params=params,
            distributions=self._distributions,
            values=None if trial.failed else [trial.values[o.name] for o in self._objectives],
            system_attrs=trial.notes,
            constraints={} if trial.failed else self.limits.violations(trial.values),
        )


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
