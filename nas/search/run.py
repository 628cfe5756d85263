"""A search, from its settings to its report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from nas.console import ProgressBar, new_console
from nas.errors import SettingError
from nas.search.derived import Derived, members_of_sum
from nas.search.measure import Measures
from nas.search.objectives import COSTS, EVALUATED, SURROGATE, TRAINED, Limits, Objective, objective
from nas.search.outcome import SearchOutcome, summarize
from nas.search.propose.features import features_of, surrogate_proposer
from nas.search.propose.proposers import SEARCH, ExhaustiveProposer, Proposer, RandomProposer
from nas.search.propose.stages import FINAL, stages_of
from nas.search.report import write_report
from nas.search.study import Study
from nas.search.target import SearchTarget
from nas.search.trained.rungs import Halving
from nas.seeds import STREAMS
from nas.settings import SearchRunSettings
from nas.signals import Interrupted, stop_signals
from nas.space import SearchSpace
from nas.threads import Threads

DEFAULT_TRIALS = 100
WAIT_S = 0.1
"""Between two looks at whether the other processes have finished."""
COPY_EVERY_S = 10.0
"""Between two copies of the trials for Optuna's tools."""
COUNTED = 20_000
"""The largest space whose networks are counted, for the length of the bar."""
LINES = 10
"""Lines that are printed of a search where there is no terminal for a bar."""


class Search:
    """Everything that a search consists of: its target, how candidates are measured, and the study.

    Args:
        settings: of the search.
        folder: where it writes. A search that has begun there goes on, or gets another worker.
        target: what the settings name, where it is there already.

    Raises:
        NasError: settings, checkpoint, data or journal are not usable; no study has begun then.
    """

    def __init__(self, settings: SearchRunSettings, folder: Path, target: SearchTarget | None = None) -> None:
        self.settings, self.folder, how = settings, folder, settings.search
        self.threads = Threads(how.threads, "pass")
        self.objectives = [objective(name) for name in how.objectives]
        limited = [objective(name, bound) for name, bound in how.limit.items()]
        self.target = target or SearchTarget.of(settings, how.progress)
        summed = members_of_sum(how, self.target.trained is not None)
        needed = [one for one in (*self.objectives, *limited, *summed) if not one.derived]
        self.kept = [one for one in self.objectives if not one.derived] or list(dict.fromkeys(needed))
        self.measures = Measures(self.target, how, list(dict.fromkeys(needed)), folder)
        space, limits = self.target.space, Limits(self.target.space, how.limit, self.measures.costs)
        if how.sampler == "surrogate":
            proposer: Proposer = surrogate_proposer(self.target, how, limits, self.objectives, self.measures.costs)
        else:
            proposer = build_proposer(how.sampler, space, limits, settings.seed, self.objectives)
        self.trials = how.trials or (None if how.sampler == "exhaustive" else DEFAULT_TRIALS)
        self.stages = stages_of(proposer, how, self.measures.costs) if TRAINED in self.objectives else None
        if self.stages is not None:
            proposer, self.trials = self.stages, None
        self.study = Study(
            folder,
            proposer,
            self.objectives,
            trials=self.trials,
            batch=how.proposed_at_once,
            definition=self._definition(_beyond(summed, [*self.objectives, *limited])),
            derive=Derived(space, summed, SURROGATE in self.objectives),
            halving=Halving(how.halved_after),
            at_once=None if self.stages is None else 1,
        )
        self.measures.goes_on = self.study.goes_on

    def _definition(self, beyond: Sequence[str]) -> dict[str, object]:
        how = asdict(self.settings.search)
        for name in ("trials", "rank_by", "memory_mb", "threads", "tensorboard", "progress"):
            del how[name]  # these change nothing that is found out
        del how["train"]["trusted"]
        how["batch"], how["rungs"] = self.settings.search.proposed_at_once, self.settings.search.halved_after
        how["trainings"] = None if self.stages is None else self.stages.budget.candidates + self.stages.budget.finals
        how["recalibrate"] = self.target.recalibrates(how["recalibrate"])
        how["features"] = features_of(self.settings.search, self.target.trained is not None)
        how["sum"] = beyond  # the sum itself is derived
        if self.stages is not None or any(n.endswith("_tuned") for n in (*how["objectives"], *how["limit"], *beyond)):
            how["streams"] = STREAMS  # batches are drawn
        return {**self.target.definition(), "seed": self.settings.seed, "search": how}

    def remarks(self) -> list[str]:
        """What a reader of the outcome should know of how it came about, in lines."""
        lines, study, space = list[str](), self.study, self.target.space
        fewer = study.used_up and bool(self.trials or study.limits.bounds)
        if self.stages is not None:
            fewer = sum(t.stage == SEARCH for t in study.trials()) < self.stages.budget.candidates
        if fewer:
            what = " that keeps the limits" if study.limits.bounds else ""
            lines.append(f"no architecture is left{what}")
        if space.size <= COUNTED and (networks := sum(1 for _ in space.networks())) < space.size:
            lines.append(
                f"the {space.size:,} architectures name {networks:,} networks, each of which is evaluated once"
            )
        trained = [trial for trial in study.trials() if trial.stage == SEARCH and trial.epochs]
        if stopped := sum(trial.stopped for trial in trained):
            made, all_of_them = sum(t.epochs for t in trained), len(trained) * self.settings.search.train.epochs
            lines.append(f"{stopped:,} of {len(trained):,} were stopped early: {made:,} of {all_of_them:,} epochs")
        return [*lines, *(f"{name} are left out: {reason}" for name, reason in self.measures.left_out.items())]


def search(run: Search) -> SearchOutcome:
    """Search until all trials are finished, by this process or by others, and write the report.

    Raises:
        Interrupted: SIGINT or SIGTERM came; what was found is in the journal.
        SettingError: nothing can be evaluated.
    """
    study, how, trainings = run.study, run.settings.search, run.measures.trainings
    copy_at = time.perf_counter() + COPY_EVERY_S
    total, behind = run.trials, 0
    if run.stages is not None:
        total, behind = run.stages.budget.candidates, run.stages.budget.behind
    with stop_signals() as received, SearchBar(study, total, how.progress, behind=behind) as bar, run.threads:
        if trainings is not None:
            trainings.watch = bar.note_share
        if not study.done() and (line := run.threads.choose(run.measures.piece_of_work)):
            bar.console.print(line)
        while not study.done():
            claimed = study.claim()
            all_refused = bool(claimed)
            for found in run.measures(claimed, study.company):
                how_it_went = found.seconds, found.failed, found.train_losses, found.stopped, found.images
                study.tell(found.trial, found.values, *how_it_went)
                if trainings is not None and not found.stopped and found.trial.stage != FINAL:
                    trainings.drop_weights(found.trial.architecture, found.trial.draw)
                bar.note_trial()
                if time.perf_counter() > copy_at:
                    copy_at = _copy_for_optuna(run)
                all_refused &= found.refused
                if received:
                    break
            if received:
                raise Interrupted(received[0])
            if all_refused:
                _stop_if_all_failed(run)  # now, rather than after all trials: it is the kind of network
            if not claimed:
                time.sleep(WAIT_S)  # for what others are at
    _stop_if_all_failed(run)
    trials, remarks = study.trials(), run.remarks()
    outcome = summarize(run.target.space, run.objectives, trials, how.rank_by, remarks, run.stages)
    with study.lock:
        _copy_for_optuna(run)
        write_report(run.folder, run.settings, run.target, outcome)
    return outcome


def _copy_for_optuna(run: Search) -> float:
    """Copy the trials for Optuna's tools; returns when to do so again, so that it takes a small part of the time."""
    from nas.search.optuna_log import write_optuna_log  # importing Optuna takes a second

    began = time.perf_counter()
    with run.study.lock:
        write_optuna_log(run.folder, run.study, run.kept)
    ended = time.perf_counter()
    return ended + max(COPY_EVERY_S, 30 * (ended - began))


def _beyond(summed: Sequence[Objective], asked: Sequence[Objective]) -> list[str]:
    """Which members of a sum are measured for its sake: they are no costs, and nothing that is asked brings them."""
    brought = {o.name.partition("_")[2] for o in asked if o.name in EVALUATED}
    found = [o.name for o in summed if o not in asked and o.name not in COSTS]
    return [name for name in found if name not in EVALUATED or name.partition("_")[2] not in brought]


def _stop_if_all_failed(run: Search) -> None:
    trials = [trial for trial in run.study.trials() if trial.finished]
    if trials and all(trial.failed for trial in trials):
        rule = f"not one of {len(trials)} architectures could be evaluated; the last: {trials[-1].failed}"
        remedy = "lower search.train.lr, or leave that one out" if run.measures.trainings else "leave that one out"
        raise SettingError("search.objectives", run.settings.search.objectives, rule, remedy)


class SearchBar(ProgressBar):
    """A bar with trials a second and the best so far where one is drawn, some lines elsewhere.

    Args:
        study: whose trials are shown, those of other processes included.
        total: number of trials; None for all of the space.
        shown: False prints nothing at all.
        console: where to; standard output if not given.
        behind: trainings that follow these trials.
    """

    def __init__(
        self, study: Study, total: int | None, shown: bool, console: Console | None = None, behind: int = 0
    ) -> None:
        self._study, self._total = study, total or study.space.size
        if study.space.size <= COUNTED:
            self._total = min(self._total, max(1, sum(1 for _ in study.limits.allowed())))
        self._total += behind
        self._before = self._count = study.finished()
        super().__init__("searching", self._total, self._before, shown, console or new_console(quiet=not shown))
        self._lines = 0 if self.drawn else LINES
        self._began, self._news = time.perf_counter(), ""

    def note_trial(self) -> None:
        """Note that a trial is finished, and redraw now and then."""
        before, self._count = self._count, self._study.finished()
        line = self._count * self._lines // self._total > before * self._lines // self._total
        if not line and not self.is_due(self._count):
            return
        self._news = f"{self._speed()}  best {self._best()}"
        self.update(self._count, self._news)
        if line:
            self.console.print(f"{self._count}/{self._total} trials  best {self._best()}  {self._speed()}")

    def note_share(self, share: float) -> None:
        """Note that ``share`` of a training is done, 0 to 1, and redraw now and then."""
        self.update(self._count + share, self._news)

    def _speed(self) -> str:
        each = max(time.perf_counter() - self._began, 1e-9) / max(self._count - self._before, 1)
        if each < 1:
            return f"{1 / each:.3g} trials/s"
        left = timedelta(seconds=round(each * max(self._total - self._count, 0)))
        return f"{each:.3g} s a trial" + ("" if self.drawn else f", {left} left")

    def _best(self) -> str:
        first = self._study.objectives[0]
        candidates = [trial for trial in self._study.trials() if trial.stage == SEARCH]
        values = [trial.values[first.name] for trial in candidates if trial.feasible]
        return f"{first.head} {first.text(min(values, key=first.oriented))}" if values else "none within the limits"


def build_proposer(
    name: str, space: SearchSpace, limits: Limits, seed: int, objectives: Sequence[Objective]
) -> Proposer:
    """The proposer of a ``search.sampler``: ``random``, ``exhaustive``, ``tpe`` or ``nsga2``."""
    if name == "random":
        return RandomProposer(space, limits, seed)
    if name == "exhaustive":
        return ExhaustiveProposer(space, limits, seed)
    from nas.search.propose.optuna_proposer import OptunaProposer  # importing Optuna takes a second

    return OptunaProposer(name, space, limits, seed, objectives)
