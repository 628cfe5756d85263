"""The study of a search: who evaluates which architecture, and what was found, in a journal that survives everyone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.errors import CheckpointError
from nas.files import must_not_be_emptied
from nas.search.asked import Asked, architecture_of, distributions, params_of
from nas.search.journal import FileLock, JournalFile, Worker
from nas.search.limits import Limits
from nas.search.objectives import Objective
from nas.search.propose import CountThrough, Draw, Proposer
from nas.settings.compare import differences
from nas.space import Architecture, SearchSpace

NAME = "nas-search"
"""Of the study in its journal."""
_MINIMIZE, _MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
"""What Optuna raises on reading what is no journal."""


@dataclass(frozen=True)
class Trial:
    """One architecture of a study."""

    number: int
    architecture: Architecture
    values: dict[str, float]
    """Everything that was found, objectives and others; empty while it is not finished, or where it failed."""
    feasible: bool = False
    """Whether it was evaluated and keeps all limits."""
    finished: bool = False
    seconds: float = 0.0
    """Of its evaluation."""
    failed: str = ""
    """Why it has no values."""


class Study:
    """A journal, and this process as one of those that work on it.

    An architecture belongs to the process that has proposed it, which it does under a lock; those of a process that
    died go to the next one that asks. Proposals are made in batches of ``batch``, counted from trial 0.

    Args:
        folder: of the search; the journal in it is begun, or gone on with.
        space, objectives, limits: what is searched.
        sampler: ``random``, ``tpe``, ``nsga2`` or ``exhaustive``.
        trials: how many architectures; None for all of them.
        batch: architectures proposed at a time.
        seed: of the proposals.
        definition: all that makes two searches the same, as plain data; a journal remembers it.

    Raises:
        CheckpointError: the journal is of another search, or cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        objectives: list[Objective],
        limits: Limits,
        *,
        sampler: str,
        trials: int | None,
        batch: int,
        seed: int,
        definition: Mapping[str, Any],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.space, self.objectives, self.limits = folder, space, objectives, limits
        self.wanted, self._batch = trials, batch
        self.used_up = False
        """Whether there is no architecture left that keeps the limits."""
        directions = [_MINIMIZE if o.smaller_is_better else _MAXIMIZE for o in objectives]
        self._proposer = _proposer(sampler, space, limits, seed, directions)
        self._distributions = distributions(space)
        definition = json.loads(json.dumps(definition))  # as a journal gives it back
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "journal.log"
        must_not_be_emptied(path, folder / "trials.csv")
        self.lock = FileLock(path)
        """Held while one process alone may write into the folder."""
        self._file = JournalFile(path, self.lock)
        self._storage = _read(path, self._file)
        _refuse_other(path, self._storage, definition)
        with self.lock:
            if not self._storage.get_all_studies():
                optuna.create_study(storage=self._storage, study_name=NAME, directions=directions)
            self._id = self._storage.get_study_id_from_name(NAME)
            if "definition" not in self._storage.get_study_user_attrs(self._id):
                self._storage.set_study_user_attr(self._id, "definition", definition)
        _refuse_other(path, self._storage, definition)  # somebody else may have been faster
        with self.lock:
            self._worker = Worker(folder / "workers")

    # --------------------------------------------------------------------------------------------- what is to do

    def claim(self) -> list[Trial]:
        """Architectures for this process to evaluate; none where all are evaluated, or others are at work on them.

        First come those whose process died, and those that this one claimed before and has not finished. A batch that
        was only begun to be proposed is completed.
        """
        with self.lock:
            trials = self._frozen()
            orphans = [t for t in trials if not t.state.is_finished() and not self._has_other(_worker_of(t))]
            for trial in orphans:
                self._storage.set_trial_user_attr(self._trial_id(trial.number), "worker", self._worker.name)
            claimed = [self._trial(t) for t in orphans]
            self._proposer.learn(trials)
            taken = {architecture_of(self.space, t.params) for t in trials}
            for number in range(len(trials), self._end_of_batch(len(trials), bool(orphans))):
                architecture = self._proposer(number, taken)
                if architecture is None:
                    self.used_up = True
                    break
                taken.add(architecture)
                self._propose(architecture)
                claimed.append(Trial(number, architecture, {}))
            self._file.sync()
        return claimed

    def done(self) -> bool:
        """Whether nothing is left to claim, and nobody is at work."""
        trials = self._frozen()
        enough = self.used_up or (self.wanted is not None and len(trials) >= self.wanted)
        return enough and all(t.state.is_finished() for t in trials)

    def _has_other(self, worker: str) -> bool:
        """Whether another worker, that is still there, is at it."""
        return worker != self._worker.name and self._worker.alive(worker)

    def _end_of_batch(self, number: int, orphans: bool) -> int:
        if self.used_up or (orphans and number % self._batch == 0):
            return number
        end = (number // self._batch + 1) * self._batch
        return end if self.wanted is None else min(end, self.wanted)

    def _propose(self, architecture: Architecture) -> None:
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params_of(self.space, architecture),
            distributions=self._distributions,
            user_attrs={"worker": self._worker.name, "architecture": self.space.encode(architecture)},
            system_attrs=self._proposer.notes,
        )
        self._storage.create_new_trial(self._id, trial)

    # ---------------------------------------------------------------------------------------------- what was found

    def tell(self, trial: Trial, values: Mapping[str, float], seconds: float, failed: str = "") -> Trial:
        """Write down what an evaluation has found.

        Args:
            trial: that this process has claimed.
            values: by name, finite; objectives and limited ones among them. Not looked at where it failed.
            seconds: that it took.
            failed: why there are no values.

        Returns:
            The trial, finished.
        """
        trial_id = self._trial_id(trial.number)
        if failed:
            self._storage.set_trial_user_attr(trial_id, "found", {"failed": failed, "seconds": seconds})
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
            return Trial(trial.number, trial.architecture, {}, finished=True, seconds=seconds, failed=failed)
        violations = self.limits.violations(values)
        for name, violation in violations.items():  # as Trial.set_constraint does for a trial that was asked for
            self._storage.set_trial_system_attr(trial_id, f"constraints:{name}", violation)
        self._storage.set_trial_user_attr(trial_id, "found", {"values": dict(values), "seconds": seconds})
        self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [values[o.name] for o in self.objectives])
        feasible = all(violation <= 0 for violation in violations.values())
        return Trial(trial.number, trial.architecture, dict(values), feasible, True, seconds)

    def trials(self) -> list[Trial]:
        """All trials by number, those of other processes included."""
        return [self._trial(t) for t in self._frozen()]

    def finished(self) -> int:
        """Number of trials that are finished, those of other processes included."""
        return sum(trial.state.is_finished() for trial in self._frozen())

    def close(self) -> None:
        """Leave the journal to others."""
        try:
            self._file.sync()
        finally:
            self._worker.close()

    def _frozen(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._id, deepcopy=False)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _trial(self, frozen: FrozenTrial) -> Trial:
        architecture = architecture_of(self.space, frozen.params)
        if not frozen.state.is_finished():
            return Trial(frozen.number, architecture, {})
        found = frozen.user_attrs["found"]
        feasible = frozen.state == TrialState.COMPLETE and all(v <= 0 for v in frozen.constraints.values())
        values, failed = found.get("values", {}), found.get("failed", "")
        return Trial(frozen.number, architecture, values, feasible, True, found["seconds"], failed)


def _proposer(
    name: str, space: SearchSpace, limits: Limits, seed: int, directions: Sequence[StudyDirection]
) -> Proposer:
    if name in ("tpe", "nsga2"):
        return Asked(name, space, limits, seed, directions)
    return (Draw if name == "random" else CountThrough)(space, limits, seed)


def _worker_of(trial: FrozenTrial) -> str:
    return str(trial.user_attrs["worker"])


def _read(path: Path, file: JournalFile) -> JournalStorage:
    try:
        return JournalStorage(file)
    except CheckpointError:
        raise
    except _DAMAGED as error:
        rule = f"cannot be read ({str(error) or type(error).__name__})"
        raise CheckpointError("journal", path, rule, "take another run=NAME to begin anew") from None


def _refuse_other(path: Path, storage: JournalStorage, definition: Mapping[str, Any]) -> None:
    """Refuse the journal of another search, with the difference."""
    studies = {study.study_name: study for study in storage.get_all_studies()}
    if studies and NAME not in studies:
        raise CheckpointError("journal", path, f"is of another study ({', '.join(studies)})", "take another run=NAME")
    if not studies or "definition" not in studies[NAME].user_attrs:
        return
    if changed := differences(studies[NAME].user_attrs["definition"], definition):
        rule = f"is of another search ({'; '.join(changed)})"
        raise CheckpointError("journal", path, rule, "take another run=NAME, or the settings it was begun with")
