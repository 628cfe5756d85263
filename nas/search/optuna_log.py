"""A search as Optuna's tools read it: ``optuna-dashboard outputs/search/NAME/optuna.log``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.errors import CheckpointError
from nas.files import write_whole
from nas.search.objectives import Objective
from nas.search.propose.proposers import SEARCH, Trial
from nas.search.study import Study

FILE = "optuna.log"


def write_optuna_log(folder: Path, study: Study, objectives: Sequence[Objective]) -> None:
    """Copy the candidates that have ended into ``optuna.log``, in the order in which they did so, without stopped ones.

    Nothing goes on from the copy. It only grows, as a dashboard that has it open expects. Each trial has the choices of
    its slots as parameters, and as user attributes its number, its architecture and all that was measured.

    Args:
        folder: of the search; its name is that of Optuna's study.
        study: that is copied; locked.
        objectives: with values that are kept, in the order of the axes.

    Raises:
        CheckpointError: the file there cannot be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / FILE
    logs = _Logs(path)
    storage = JournalStorage(logs)
    begun = [found.study_name for found in storage.get_all_studies()]  # the folder may have been renamed since
    directions: list[Any] = ["minimize" if o.smaller_is_better else "maximize" for o in objectives]
    copy = optuna.create_study(
        storage=storage, study_name=(begun or [folder.name])[0], directions=directions, load_if_exists=True
    )
    if not begun:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            copy.set_metric_names([o.name for o in objectives])
    known = {trial.user_attrs["trial"] for trial in copy.get_trials(deepcopy=False)}
    ended = [trial for trial in study.trials() if trial.finished and not trial.stopped and trial.stage == SEARCH]
    copy.add_trials(_as_optunas(study, objectives, trial) for trial in ended if trial.number not in known)
    write_whole(path, "".join(f"{json.dumps(log)}\n" for log in logs.found))


class _Logs(BaseJournalBackend):
    """Optuna's records in memory, so that the file is written once, and whole."""

    def __init__(self, path: Path) -> None:
        try:
            self.found = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        except ValueError as error:
            raise CheckpointError("copy", path, f"cannot be read ({error})", "delete it: it is made again") from None

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self.found[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.found += logs


def _as_optunas(study: Study, objectives: Sequence[Objective], trial: Trial) -> FrozenTrial:
    slots, values = study.space.slots, trial.values
    choices = {slot.name: slot.named(entry) for slot, entry in zip(slots, trial.architecture, strict=True)}
    found = {"failed": trial.failed} if trial.failed else values
    return create_trial(
        state=TrialState.FAIL if trial.failed else TrialState.COMPLETE,
        values=None if trial.failed else [values[o.name] for o in objectives],
        params=choices,
        distributions={
            slot.name: CategoricalDistribution([*map(slot.named, study.space.entries(i))])
            for i, slot in enumerate(slots)
        },
        user_attrs={"trial": trial.number, "architecture": study.space.encode(trial.architecture), **found},
        constraints={} if trial.failed else study.limits.violations(values),
    )
