"""The training loop."""

from __future__ import annotations

import signal
from time import perf_counter
from typing import TYPE_CHECKING

from nas.data import Ahead
from nas.dist import set_cuda_flags
from nas.seeds import seed_layers
from nas.signals import Interrupted, stop_signals

if TYPE_CHECKING:
    from nas.train.result import StepResult
    from nas.train.run import Run

GRACE_S = 20.0
"""Seconds that one of several processes may go on after a signal: an evaluation may take longer than torchrun waits."""


def fit(run: Run, until: int | None = None) -> None:
    """Train ``run`` from where it is to its end.

    Args:
        run: is left as it is after its last step; what it has written belongs to that step.
        until: the step to stop after, with a checkpoint; the last one if left out.

    Raises:
        Interrupted: SIGINT or SIGTERM came, to any process of the run, and steps are left; the run is saved.
        Abandoned: with several processes: such a signal came, and rank 0 went on evaluating for too long.
        DivergedError: the loss is no longer finite, told when it is next logged, or before an evaluation or a
            checkpoint; ``run`` has the weights of the step before, and the last checkpoint is from before.
        RankError: the processes of the run do different things, or one is gone.
    """
    set_cuda_flags(run.device, run.settings.train)  # another run of this process may have set others since
    several, end = run.world.size > 1, run.total_steps if until is None else min(until, run.total_steps)
    with (
        stop_signals(grace_s=GRACE_S if several else 0) as received,
        run.progress,
        run.threads,
        Ahead(run.batches, end) as ahead,
    ):
        if run.to_be_evaluated:
            run.validate()
            run.save()
        before: StepResult | None = None
        while run.step < end:
            began = perf_counter()
            batch = ahead.batch(run.step)
            loaded = perf_counter()
            paths, all_paths = run.paths()
            lr = run.learning_rate()
            seed_layers(run.device, run.settings.seed, run.step, run.world.rank)
            result = run.train_step(batch, paths, lr, run.step, all_paths, bool(received))
            run.learn(result)
            run.record(result, data_s=loaded - began, step_s=perf_counter() - loaded)
            # Several processes stop after a step in which they have told each other, so that none waits. GPUs are asked
            # about the step before: they have got so far, and work on meanwhile.
            told = before if run.device.type == "cuda" else result
            stop = (bool(received) and not several) or (told is not None and told.stopped())
            before = result
            if run.log_due(run.step):
                run.log(lr, all_paths)
            if run.validation_due(run.step):
                run.validate()
            if run.save_due(run.step) or stop or run.step == end:
                run.save()
            if stop and run.step < end:
                raise Interrupted(received[0] if received else signal.SIGTERM)
