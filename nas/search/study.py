"""Who evaluates which architecture, and what was found: a study in a journal, shared by several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from nas.files import lock
from nas.journal import Journal
from nas.search.objectives import TRAINED, Objective, points
from nas.search.propose.proposers import SEARCH, Proposer, Trial
from nas.search.propose.stages import STAGES
from nas.search.trained.rungs import WHOLE, Halving

NOBODY = ""
"""Whose a trial is that was proposed and not claimed."""


class Study:
    """A journal, and this process as one of those that work on it.

    Each network is a candidate once, by its canonical form, whatever other names it has.

    A trial belongs to the process that has claimed it, which it does under a lock; those of a process that died go to
    the next one that claims. Proposals are made in batches, counted from trial 0.

    Args:
        folder: of the search; the journal in it is begun, or gone on with.
        proposer: of architectures; its limits decide which trials are feasible.
        objectives: that each trial has values of.
        trials: how many there are to be; None for as many as the proposer has.
        batch: architectures proposed at a time.
        definition: all that makes two searches the same, as plain data; the journal remembers it.
        derive: adds the values of derived objectives to trials; whoever sees several of them sees these.
        halving: stops trainings, and lets them go on.
        at_once: trials that a process claims at a time, where each takes long; None for a whole batch.

    Attributes:
        lock: a context in which this process alone writes to the folder.
        used_up: no architecture is left that keeps the limits.

    Raises:
        CheckpointError: the journal belongs to another search, or cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        proposer: Proposer,
        objectives: list[Objective],
        *,
        trials: int | None,
        batch: int,
        definition: Mapping[str, Any],
        derive: Callable[[Sequence[Trial]], list[Trial]] = list,
        halving: Halving = WHOLE,
        at_once: int | None = None,
    ) -> None:
        self.space, self.limits, self.objectives = proposer.space, proposer.limits, objectives
        self.wanted, self.used_up = trials, False
        self._proposer, self._batch, self._derive = proposer, batch, derive
        self._halving, self._at_once = halving, at_once
        self._trials, self._finished = list[Trial](), 0
        self._workers: list[str] = []  # by trial: whose it is
        folder.mkdir(parents=True, exist_ok=True)
        path, result = folder / "journal.log", folder / "trials.csv"
        self._journal = Journal(path, "nas-search", definition, self._replay, result=result, shared=True)
        self.lock = self._journal.lock
        with self.lock:
            self._worker = Worker(folder / "workers")

    def claim(self) -> list[Trial]:
        """Trials for this process to evaluate; none if all are finished or belong to other processes.

        First come stopped trainings that are to go on, then those of processes that died, and those that this one
        claimed before and has not finished. A batch that was only begun to be proposed is completed.
        """
        with self.lock:
            self._journal.refresh()
            free = [t for t in self._trials if not t.finished and not self._has_other(self._workers[t.number])]
            free = [*self._halving.promoted(self._trials), *free]
            proposals = self._proposals(has_work=bool(free))
            mine = [*free, *proposals][: self._at_once]
            taken = {trial.number for trial in mine}
            entries: list[dict[str, Any]] = []
            for trial in proposals:
                worker = self._worker.name if trial.number in taken else NOBODY
                entry = {"trial": trial.number, "architecture": self.space.encode(trial.architecture), "worker": worker}
                if trial.stage != SEARCH:
                    entry |= {"stage": trial.stage, "draw": trial.draw}
                entries.append({**entry, "notes": trial.notes} if trial.notes else entry)
            for trial in mine:
                if trial not in proposals and (trial.stopped or self._workers[trial.number] != self._worker.name):
                    entries.append({"trial": trial.number, "worker": self._worker.name})
            if entries:
                self._journal.append(*entries)
            self._journal.sync()
        return mine

    def tell(
        self,
        trial: Trial,
        values: Mapping[str, float],
        seconds: float,
        failed: str = "",
        train_losses: Sequence[float] = (),
        stopped: bool = False,
        images: int = 0,
    ) -> Trial:
        """Write down what an evaluation has found.

        Args:
            trial: that this process has claimed.
            values: by name, finite; objectives and limited ones among them. Not looked at where it failed.
            seconds: that it took.
            failed: why there are no values.
            train_losses: of each epoch that its architecture was trained alone for.
            stopped: the training was stopped at a rung, so that ``values`` lack what it was made for.
            images: held-out ones that accuracy and loss rest on.

        Returns:
            The finished trial.
        """
        found: dict[str, Any] = {"failed": failed} if failed else {"values": dict(values)}
        if train_losses:
            found["train_losses"] = list(train_losses)
        if stopped:
            found["stopped"] = True
        if images:
            found["images"] = images
        self._journal.append({"trial": trial.number, "seconds": seconds, **found})
        return self._trials[trial.number]

    def company(self, trial: Trial) -> tuple[list[Trial], list[Trial]]:
        """The trials that were proposed together with one, and the finished ones before them."""
        batch = self._proposer.batch_of(trial.number, self._batch)
        return self._trials[batch.start : batch.stop], [t for t in self._trials[: batch.start] if t.finished]

    def goes_on(self, trial: Trial, epochs: int, train_losses: Sequence[float]) -> bool:
        """Whether a training goes on that has come to a rung, beside those of all processes."""
        self._journal.refresh()
        return self._halving.goes_on(trial, epochs, train_losses, self._trials)

    def done(self) -> bool:
        """Whether nothing is left to claim, and nobody is at work."""
        self._journal.refresh()
        enough = self.used_up or (self.wanted is not None and len(self._trials) >= self.wanted)
        return enough and self._finished == len(self._trials)

    def trials(self) -> list[Trial]:
        """All trials by number, those of other processes included."""
        self._journal.refresh()
        return self._derive(self._trials)

    def finished(self) -> int:
        """The number of trials that are finished, those of other processes included."""
        self._journal.refresh()
        return self._finished

    def close(self) -> None:
        """Leave the study to the other processes."""
        try:
            self._journal.sync()
        finally:
            self._worker.close()

    def _replay(self, entry: dict[str, Any]) -> None:
        """Take over an entry: a proposal, a claim of what another process proposed, or what was found."""
        number = entry["trial"]
        if "architecture" in entry:
            if number != len(self._trials):
                raise ValueError(f"trial {number} follows {len(self._trials)} trials")
            stage, draw, notes = entry.get("stage", SEARCH), int(entry.get("draw", 0)), entry.get("notes", {})
            if stage not in (SEARCH, *STAGES):
                raise ValueError(f"trial {number} has no stage {stage}")
            architecture = self.space.decode(entry["architecture"])
            self._trials.append(Trial(number, architecture, notes=notes, stage=stage, draw=draw))
            self._workers.append(entry["worker"] and UUID(entry["worker"]).hex)
        elif "worker" in entry:
            self._workers[number] = UUID(entry["worker"]).hex
            if self._trials[number].stopped:
                self._finished -= 1
                self._trials[number] = replace(self._trials[number], finished=False, stopped=False)
        else:
            values, failed, seconds = entry.get("values", {}), entry.get("failed", ""), float(entry["seconds"])
            stopped, known = entry.get("stopped") is True, dict[str, float]()
            if stopped:
                values, known = known, values
            feasible = not failed and not stopped
            if feasible and self._trials[number].stage == SEARCH:
                points([o for o in self.objectives if not o.derived], [values])  # all of them are there
                feasible = all(excess <= 0 for excess in self.limits.violations(values).values())
            elif feasible:
                points([TRAINED], [values])
            losses = tuple(float(loss) for loss in entry.get("train_losses", ()))
            found = {"values": values, "failed": failed, "seconds": seconds, "feasible": feasible}
            found |= {"train_losses": losses, "epochs": len(losses), "stopped": stopped, "known": known}
            found["images"] = int(entry.get("images", 0))
            self._finished += not self._trials[number].finished
            self._trials[number] = replace(self._trials[number], finished=True, **found)

    def _has_other(self, worker: str) -> bool:
        """Whether another worker, which is still there, is at it."""
        return worker not in (NOBODY, self._worker.name) and self._worker.alive(worker)

    def _proposals(self, has_work: bool) -> list[Trial]:
        """The rest of the batch that was begun; another batch if there is none, and nothing else to do."""
        first = len(self._trials)
        self._proposer.tell(self._derive(self._halving.estimated(self._trials, self.limits)))
        batch = self._proposer.batch_of(first, self._batch)
        begins = first == batch.start
        if self.used_up or (begins and (has_work or not self._proposer.ready(first))):
            return []
        found, taken = list[Trial](), {self.space.canonical(trial.architecture) for trial in self._trials}
        for number in range(first, batch.stop if self.wanted is None else min(batch.stop, self.wanted)):
            trial = self._proposer.ask(number, taken)
            if trial is None:
                self.used_up = self._proposer.used_up
                break
            name = self.space.canonical(trial.architecture)
            assert trial.stage != SEARCH or (name == trial.architecture and name not in taken), trial
            found.append(trial)
            taken.add(name)
        return found


class Worker:
    """A process that works on a study: it holds a lock on a file of its own, which it loses when it is killed.

    A process id would not do: it is given out again, and says nothing on another machine.

    Args:
        folder: of the workers. The study has to be locked, so that nobody looks between making a file and locking it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._held, self.name = folder, ExitStack(), uuid4().hex
        folder.mkdir(exist_ok=True)
        for other in folder.iterdir():
            self.alive(other.name)  # removes the files of killed ones
        self._held.enter_context(lock(folder / self.name))

    def alive(self, name: str) -> bool:
        """Whether the worker of that name still works."""
        path = self._folder / name
        if name == self.name or not path.exists():
            return name == self.name
        with lock(path) as free:
            return not free

    def close(self) -> None:
        """Give up the claims of this worker."""
        self._held.close()
