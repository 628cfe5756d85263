"""Which trainings are stopped early, and what they would have reached.

Successive halving without waiting (ASHA; Li, Jamieson, Rostamizadeh et al., A System for Massively Parallel
Hyperparameter Tuning, MLSys 2020): at each rung the better half goes on, as far as is known at the time. A training
that was stopped goes on where it is if it turns out to belong to the better half after all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, linear_regression

from nas.search.objectives import TRAINED, Limits
from nas.search.propose.proposers import SEARCH, Trial

LEAST = 3
"""Whole trainings that a regression needs."""


class Halving:
    """Compares trainings at rungs by their training loss.

    Trainings of the same draw see the same batches, so their losses differ by what is trained and little else; a
    validation accuracy so early is noisier.

    Args:
        rungs: epochs, increasing, after which the better half goes on; empty trains all to the end.
    """

    def __init__(self, rungs: Sequence[int] = ()) -> None:
        self.rungs = tuple(rungs)

    def goes_on(self, trial: Trial, epochs: int, train_losses: Sequence[float], trials: Sequence[Trial]) -> bool:
        """Whether a training goes on after so many epochs.

        Args:
            trial: that it belongs to.
            epochs: one of the rungs.
            train_losses: of the training, an epoch each.
            trials: all that are known; those that have been there count.
        """
        if trial.stage != SEARCH or epochs not in self.rungs:
            return True
        others = [score(t.train_losses, epochs) for t in _there(trials, epochs) if t.number != trial.number]
        better = sum(other < score(train_losses, epochs) for other in others)
        return better < math.ceil((len(others) + 1) / 2)

    def promoted(self, trials: Sequence[Trial]) -> list[Trial]:
        """Stopped trainings that would go on by what is known now."""
        if any(trial.stage != SEARCH for trial in trials):
            return []  # the finals have begun
        stopped = [trial for trial in trials if trial.stopped]
        return [t for t in stopped if self.goes_on(t, t.epochs, t.train_losses, trials)]

    def estimates(self, trials: Sequence[Trial]) -> dict[int, float]:
        """What stopped trainings would have reached, by number of the trial; nothing while none has reached its end.

        A line through the whole trainings says which accuracy belongs to which loss at that rung. While fewer than
        three of them are known, it falls by a unit of accuracy for a unit of loss.
        """
        whole = [t for t in trials if t.stage == SEARCH and t.epochs and not t.stopped and TRAINED.name in t.values]
        reached = [t.values[TRAINED.name] for t in whole]
        found = dict[int, float]()
        for trial in trials if whole else ():
            if not trial.stopped:
                continue
            losses, slope = [score(t.train_losses, trial.epochs) for t in whole], -1.0
            if len(whole) >= LEAST and len({*losses}) > 1:
                slope = min(linear_regression(losses, reached).slope, 0.0)
            estimate = fmean(reached) + slope * (score(trial.train_losses, trial.epochs) - fmean(losses))
            found[trial.number] = min(max(estimate, 0.0), 1.0)
        return found

    def estimated(self, trials: Sequence[Trial], limits: Limits) -> list[Trial]:
        """The trials as a proposer sees them: stopped trainings with the accuracy that they would have reached."""
        seen = list(trials)
        for number, accuracy in self.estimates(trials).items():
            values = {**seen[number].known, TRAINED.name: accuracy}
            feasible = all(excess <= 0 for excess in limits.violations(values).values())
            seen[number] = replace(seen[number], values=values, feasible=feasible)
        return seen


WHOLE = Halving()
"""Stops nothing."""


def score(train_losses: Sequence[float], epochs: int) -> float:
    """The training loss of the last of ``epochs``; smaller is better.

    After Ru, Lyle, Schut et al., Speedy Performance Estimation for Neural Architecture Search (NeurIPS 2021), who sum
    up the losses of the last epochs or of all; here one epoch ranks better than the sum.
    """
    return train_losses[epochs - 1]


def _there(trials: Sequence[Trial], epochs: int) -> list[Trial]:
    """The candidates whose training has come so far."""
    return [trial for trial in trials if trial.stage == SEARCH and len(trial.train_losses) >= epochs]
