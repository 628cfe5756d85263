"""What a person who waits for a search sees."""

from __future__ import annotations

from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from nas.search.study import Study, Trial

REFRESH_S = 0.2
COUNTED = 20_000
"""Architectures of a space that is counted through for those within the limits."""
LINES = 10
"""That are printed of a search where there is no terminal for a bar."""


class Progress:
    """A bar with trials a second and the best so far on a terminal, some lines elsewhere.

    Args:
        study: whose trials are shown; those of other processes count as soon as one of ours is finished.
        total: number of trials; None for all of the space.
        shown: False prints nothing at all.
        console: where to; standard output if not given.
    """

    def __init__(self, study: Study, total: int | None, shown: bool, console: Console | None = None) -> None:
        self._study, self._total = study, total or study.space.size
        if study.space.size <= COUNTED:
            self._total = min(self._total, max(1, sum(map(study.limits.within, study.space.enumerate()))))
        self._first = study.objectives[0]
        self.console = console or Console(quiet=not shown, highlight=False, markup=False, soft_wrap=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[news]}"), TimeRemainingColumn())
        terminal = self.console.is_terminal
        self._bar = Bar(
            TextColumn("searching"),
            *columns,
            TextColumn("left"),
            console=self.console,
            disable=not (shown and terminal),
        )
        self._lines = not terminal
        trials = study.trials()
        self.any_success = any(trial.finished and not trial.failed for trial in trials)
        """Whether any architecture could be evaluated."""
        self._best = min((self._key(trial) for trial in trials if trial.feasible), default=None)
        self._before, self._done = sum(trial.finished for trial in trials), 0
        self._task = self._bar.add_task("searching", total=self._total, completed=self._before, news="")
        self._printed, self._next, self._began = self._before * LINES // self._total, 0.0, perf_counter()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, trial: Trial) -> None:
        """Note that a trial of ours is finished, and redraw now and then."""
        self._done += 1
        self.any_success |= not trial.failed
        if trial.feasible:
            self._best = self._key(trial) if self._best is None else min(self._best, self._key(trial))
        now = perf_counter()
        # To count the trials of all processes takes time that grows with their number.
        line = self._lines and (self._before + self._done) * LINES // self._total > self._printed
        if line or now >= self._next:
            self._next = now + REFRESH_S
            self._show(self._study.finished(), f"{self._done / max(now - self._began, 1e-9):.3g} trials/s")

    def _show(self, count: int, speed: str) -> None:
        best = "none within the limits" if self._best is None else self._text(self._best)
        self._bar.update(self._task, completed=count, news=f"{speed}  best {best}")
        if self._lines and count * LINES // self._total > self._printed:
            self._printed = count * LINES // self._total
            self.console.print(f"{count}/{self._total} trials  best {best}  {speed}")

    def _key(self, trial: Trial) -> float:
        return self._first.oriented(trial.values[self._first.name])

    def _text(self, best: float) -> str:
        return f"{self._first.head} {self._first.text(self._first.oriented(best))}"
