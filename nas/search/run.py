"""A search, from its settings to its report."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch

from nas.errors import SettingError
from nas.search.limits import Limits
from nas.search.measure import Measures
from nas.search.objectives import objective
from nas.search.progress import Progress
from nas.search.report import write_report
from nas.search.result import Found, sort_out
from nas.search.study import Study
from nas.search.subject import Subject
from nas.settings import SearchRunSettings
from nas.signals import Interrupted, stop_signals

DEFAULT_TRIALS = 100
WAIT_S = 0.1
"""Between two looks at whether the others have finished."""


class Search:
    """Everything a search consists of: what is searched, how candidates are measured, and the study.

    Args:
        settings: of the search.
        folder: where it writes; a search that has begun there goes on, or gets another worker.

    Raises:
        NasError: settings, checkpoint, data or journal are not usable; no study has begun then.
    """

    def __init__(self, settings: SearchRunSettings, folder: Path) -> None:
        self.settings, self.folder, how = settings, folder, settings.search
        if how.threads:
            torch.set_num_threads(how.threads)
        self.objectives = [objective(name) for name in how.objectives]
        limited = [objective(name, bound) for name, bound in how.limit.items()]
        self.subject = Subject.of(settings, how.progress)
        self.measures = Measures(self.subject, how, list(dict.fromkeys([*self.objectives, *limited])))
        self.limits = Limits(self.subject.space, how.limit, self.measures.costs)
        self.trials = how.trials or (None if how.sampler == "exhaustive" else DEFAULT_TRIALS)
        self.study = Study(
            folder,
            self.subject.space,
            self.objectives,
            self.limits,
            sampler=how.sampler,
            trials=self.trials,
            batch=how.batch,
            seed=settings.seed,
            definition=self._definition(),
        )

    def _definition(self) -> dict[str, object]:
        how = asdict(self.settings.search)
        for name in ("trials", "rank_by", "memory_mb", "threads", "tensorboard", "progress"):
            del how[name]  # these change nothing that is found out
        how["recalibrate"] = self.subject.recalibrates(how["recalibrate"])
        return {**self.subject.definition(), "seed": self.settings.seed, "search": how}


def search(run: Search) -> Found:
    """Search until all trials are done, by this process or by others, and write the report.

    Raises:
        Interrupted: SIGINT or SIGTERM came; what was found is in the journal.
        SettingError: nothing can be evaluated.
    """
    study, how = run.study, run.settings.search
    with stop_signals() as received, Progress(study, run.trials, how.progress) as progress:
        while not study.done():
            claimed = {trial.architecture: trial for trial in study.claim()}
            all_refused = bool(claimed)
            for measured in run.measures(list(claimed)):
                trial = claimed[measured.architecture]
                all_refused &= measured.refused
                progress.advance(study.tell(trial, measured.values, measured.seconds, measured.failed))
                if received:
                    break
            if received:
                raise Interrupted(received[0])
            if all_refused and not progress.any_success:
                _refuse_if_all_fail(run)  # now, rather than after all of them: it is the kind of network
            if not claimed:
                time.sleep(WAIT_S)  # for what others are at
    _refuse_if_all_fail(run)
    found = sort_out(run.objectives, study.trials(), how.rank_by)
    with study.lock:
        write_report(run, found)
    return found


def _refuse_if_all_fail(run: Search) -> None:
    trials = [trial for trial in run.study.trials() if trial.finished]
    if trials and all(trial.failed for trial in trials):
        rule = f"not one of {len(trials)} architectures could be evaluated; the last: {trials[-1].failed}"
        raise SettingError("search.objectives", run.settings.search.objectives, rule, "leave that one out")
