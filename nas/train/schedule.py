"""When something is due in a run, the learning rate of each step, and runs that get longer than they were begun."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

from nas.errors import CheckpointError, SettingError, require
from nas.plugin import load_function
from nas.settings import LearnedGateSettings, TrainRunSettings, TrainSettings, train_settings
from nas.settings.plain import fits

_own = cache(load_function)
"""Once, not in every step."""


@dataclass(frozen=True)
class Every:
    """When something is due: after every ``steps`` steps, and after step ``last``."""

    steps: int
    last: int

    def __call__(self, step: int) -> bool:
        """Whether it is due after ``step`` steps."""
        return step % self.steps == 0 or step == self.last

    def left(self, step: int) -> int:
        """How often it is still due after ``step``."""
        behind = step < self.last and self.last % self.steps > 0
        return self.last // self.steps - step // self.steps + behind


def learning_rate(settings: TrainSettings, peak: float, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of update ``step`` of ``total_steps``.

    ``cosine``: a linear warm-up over ``warmup_epochs``, half of the run at most, then half a cosine down to 0
    (Loshchilov and Hutter 2017).
    ``onecycle``: up from peak / 25 over the first 30 % and down to 0, both by cosine (Smith and Topin 2018).
    ``constant``: the warm-up, then the peak.
    Another name is a user's own ``function(step, total_steps, steps_per_epoch)``, which gives a factor of the peak.

    Raises:
        SettingError: the user's own gave something else than a finite number that is not negative.
    """
    if ":" in settings.schedule:
        takes = ("step", "total_steps", "steps_per_epoch")
        factor = _own("train.schedule", settings.schedule, *takes)(step, total_steps, steps_per_epoch)
        if not isinstance(factor, Real) or not 0 <= float(factor) < math.inf:
            rule = (
                f"gave {factor!r} at step {step} of {total_steps}, and must give a finite number that is not negative"
            )
            raise SettingError("train.schedule", settings.schedule, rule, "return a factor of optimizer.lr, as in 0.5")
        return peak * float(factor)
    if settings.schedule == "onecycle":
        top = 0.3 * total_steps
        if step < top:
            return peak / 25 + (peak - peak / 25) * (1 - math.cos(math.pi * step / top)) / 2
        return peak * (1 + math.cos(math.pi * (step - top) / (total_steps - top))) / 2
    warmup = min(settings.warmup_epochs * steps_per_epoch, total_steps / 2)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return peak
    return peak * (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup))) / 2


def rate_in_cycles(settings: TrainRunSettings, step: int, ends: Sequence[int], steps_per_epoch: int) -> float:
    """The learning rate of update ``step`` of a run in which a cycle of the schedule ends at each step of ``ends``."""
    cycle = bisect_right(ends, step)
    begin = ends[cycle - 1] if cycle else 0
    return learning_rate(settings.train, settings.optimizer.lr, step - begin, ends[cycle] - begin, steps_per_epoch)


def cycle_ends(
    folder: Path, state: dict[str, Any] | None, settings: TrainRunSettings, steps_per_epoch: int
) -> tuple[int, ...]:
    """The steps at which the cycles of a run's schedule end; the last one is the end of the run.

    A run has one cycle. It may go on with another number of epochs if a run with that number would have begun with the
    steps that it has made. Otherwise ``train.extend`` makes the epochs that are added a cycle of their own.

    Args:
        folder: of the run.
        state: its checkpoint, with the same settings but perhaps another length; None for a run that begins.
        settings: of the run.
        steps_per_epoch: of the run.

    Raises:
        SettingError: there is no run to extend.
        CheckpointError: the run is longer already, or its steps are not those of a run of that length.
    """
    epochs, total, extend = settings.train.epochs, settings.train.epochs * steps_per_epoch, settings.train.extend
    if state is None:
        require(not extend, "train.extend", "true", f"there is no run in {folder} to make longer", "leave it out")
        return (total,)
    step, planned = state["step"], train_settings(state["settings"]).train.epochs
    earlier = state.get("cycles", [])
    ends = (*earlier, planned * steps_per_epoch) if fits(earlier, list[int]) else ()
    if list(ends) != sorted({end for end in ends if end > 0}) or not ends:
        raise CheckpointError("run", folder, "its checkpoint has cycles out of order", "take another run=NAME")
    if total == ends[-1]:
        return ends
    if extend and total > ends[-1]:
        return (*ends, total)
    if total < step:
        rule, remedy = f"the run in {folder} has made {step / steps_per_epoch:.4g}", f"write train.epochs={planned}"
        raise CheckpointError("train.epochs", epochs, rule, remedy)
    other, why = (*(end for end in earlier if end < total), total), ""
    if any(len({rate_in_cycles(settings, i, e, steps_per_epoch) for e in (ends, other)}) > 1 for i in range(step)):
        why = f"the {settings.train.schedule} schedule"
    elif isinstance(settings.gate, LearnedGateSettings) and ends[0] != other[0]:
        why = "the learned gate" if step > settings.gate.warmup * min(ends[0], other[0]) > 0 else ""
    if not why:
        return other
    rule = f"was begun with other settings (train.epochs: {planned} -> {epochs})"
    rule += f", and {why} of a run of {epochs} epochs would have made its {step} steps others"
    remedy = "take another run=NAME"
    if total > ends[-1]:
        remedy = f"add train.extend=true for a new cycle of the schedule from step {ends[-1]}, or {remedy}"
    raise CheckpointError("run", folder, rule, remedy)
