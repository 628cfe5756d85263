"""When something is due in a run, and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nas.settings import TrainSettings


@dataclass(frozen=True)
class Every:
    """When something is due: after every ``steps`` steps, and after step ``last``."""

    steps: int
    last: int

    def __call__(self, step: int) -> bool:
        """Whether it is due after ``step`` steps."""
        return step % self.steps == 0 or step == self.last


def learning_rate(settings: TrainSettings, peak: float, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of update ``step`` of ``total_steps``.

    ``cosine``: a linear warm-up over ``warmup_epochs``, half of the run at most, then half a cosine down to 0
    (Loshchilov and Hutter 2017).
    ``onecycle``: up from peak / 25 over the first 30 % and down to 0, both by cosine (Smith and Topin 2018).
    ``constant``: the warm-up, then the peak.
    """
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
