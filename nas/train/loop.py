"""The training loop."""

from __future__ import annotations

import signal
from time import perf_counter
from typing import TYPE_CHECKING

from nas.gate import LearnedGate
from nas.seeds import seed_layers
from nas.signals import Interrupted, stop_signals
from nas.train.optimize import learning_rate
from nas.train.step import train_step

if TYPE_CHECKING:
    from nas.train.run import Run

GRACE_S = 20.0
"""How long one of several processes may go on after a signal: judging may take longer than torchrun waits."""
NORMS_EVERY = 10
"""Steps between two measurements of the branches' gradient norms."""


def fit(run: Run) -> None:
    """Train ``run`` from where it is to its end.

    Raises:
        Interrupted: SIGINT or SIGTERM came, to any process of the run; the run is saved.
        Abandoned: with several processes: such a signal came, and rank 0 was judging for too long after it.
        DivergedError: the loss stopped being finite; the last checkpoint is from before.
        RankError: the processes of the run do not do the same, or one is gone.
    """
    train, track = run.settings.train, run.settings.track
    alone = run.world.size == 1
    with stop_signals(grace_s=0 if alone else GRACE_S) as received, run.progress:
        if run.to_be_evaluated:
            run.validate()
            run.to_be_evaluated = False
            run.save()
        while run.step < run.total_steps:
            started = perf_counter()
            x, y = run.batches.batch(run.step)
            loaded = perf_counter()
            paths, all_paths = run.paths()
            lr = learning_rate(train, run.settings.optimizer.lr, run.step, run.total_steps, run.steps_per_epoch)
            norms_of = run.branch_norms if run.step % NORMS_EVERY == 0 else None
            among = (run.exchange, all_paths, bool(received))
            seed_layers(run.device, run.settings.seed, run.step, run.world.rank)
            result = train_step(run.supernet, run.optimizer, run.loss_fn, x, y, paths, lr, run.step, norms_of, *among)
            if isinstance(run.gate, LearnedGate) and run.gate.is_due(run.step):
                run.teacher.step(run.gate, *run.held_out.batch(run.step), run.step)
            run.tracker.step(
                all_paths,
                loss=result.loss,
                correct=result.correct,
                images=train.batch_size * len(paths),
                step_s=perf_counter() - loaded,
                data_s=loaded - started,
                path_s=result.path_s if len(all_paths) == len(paths) else None,
                grad_norms=result.grad_norms,
            )
            run.step += 1
            run.progress.advance(run.step, result.loss, run.tracker)
            at_end = run.step == run.total_steps
            stop = result.stop or (alone and received)  # processes stop at the same step, so that none waits
            if run.step % track.log_every == 0 or at_end:
                run.log(lr, all_paths)
            if run.step % (run.steps_per_epoch * run.settings.evaluate.every_epochs) == 0 or at_end:
                if not alone:
                    run.save(to_be_evaluated=True)  # judging may take longer than torchrun waits for a process to stop
                run.validate()
            if run.step % (train.save_every or run.steps_per_epoch) == 0 or at_end or stop:
                run.save()
            if stop and not at_end:
                raise Interrupted(received[0] if received else signal.SIGTERM)
