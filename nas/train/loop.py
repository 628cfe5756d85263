"""The training loop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from nas.gate import LearnedGate
from nas.seeds import seed_layers
from nas.train.optimize import learning_rate
from nas.train.step import train_step

if TYPE_CHECKING:
    from nas.train.run import Run

GRACE_S = 20.0
"""How long one of several processes may go on after a signal: judging may take longer than torchrun waits."""
NORMS_EVERY = 10
"""Steps between two measurements of the branches' gradient norms."""


class Interrupted(Exception):
    """The run was asked to stop and has saved.

    Args:
        signal_number: of the signal that asked.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Abandoned(Interrupted):
    """The run was asked to stop and did not come to the end of a step in time: its last checkpoint is what there is."""


def fit(run: Run) -> None:
    """Train ``run`` from where it is to its end.

    Raises:
        Interrupted: SIGINT or SIGTERM came, to any process of the run; the run is saved.
        Abandoned: with several processes: such a signal came, and rank 0 was judging for too long after it.
        DivergedError: the loss stopped being finite; the last checkpoint is from before.
        RankError: the processes of the run do not do the same, or one is gone.
    """
    train, track = run.settings.train, run.settings.track
    alone = run.ranks.size == 1
    with stop_signals(grace_s=0 if alone else GRACE_S) as received, run.progress:
        if run.to_be_judged:
            run.evaluate()
            run.to_be_judged = False
            run.save()
        while run.step < run.total_steps:
            started = perf_counter()
            x, y = run.batches.batch(run.step)
            loaded = perf_counter()
            paths, everyones = run.paths()
            lr = learning_rate(train, run.settings.optimizer.lr, run.step, run.total_steps, run.steps_per_epoch)
            norms_of = run.branch_norms if run.step % NORMS_EVERY == 0 else None
            among = (run.exchange, everyones, bool(received))
            seed_layers(run.device, run.settings.seed, run.step, run.ranks.rank)
            result = train_step(run.supernet, run.optimizer, run.loss_fn, x, y, paths, lr, run.step, norms_of, *among)
            if isinstance(run.gate, LearnedGate) and run.gate.is_due(run.step):
                run.teacher.step(run.gate, *run.held_out.batch(run.step), run.step)
            run.tracker.step(
                everyones,
                loss=result.loss,
                correct=result.correct,
                images=train.batch_size * len(paths),
                step_s=perf_counter() - loaded,
                data_s=loaded - started,
                path_s=result.path_s if len(everyones) == len(paths) else None,
                grad_norms=result.grad_norms,
            )
            run.step += 1
            run.progress.advance(run.step, result.loss, run.tracker)
            at_end = run.step == run.total_steps
            stop = result.stop or (alone and received)  # processes stop at the same step, so that none waits
            if run.step % track.log_every == 0 or at_end:
                run.log(lr, everyones)
            if run.step % (run.steps_per_epoch * run.settings.evaluate.every_epochs) == 0 or at_end:
                if not alone:
                    run.save(to_be_judged=True)  # judging may take longer than torchrun waits for a process to stop
                run.evaluate()
            if run.step % (train.save_every or run.steps_per_epoch) == 0 or at_end or stop:
                run.save()
            if stop and not at_end:
                raise Interrupted(received[0] if received else signal.SIGTERM)


@contextmanager
def stop_signals(grace_s: float = 0.0) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them.

    Args:
        grace_s: 0: a second one is not caught. Else the process ends by itself that many seconds after the first: one
            that torchrun has started gets a Ctrl-C twice, from the terminal and from torchrun, which kills what has
            not ended after 30 s.
    """
    received: list[int] = []

    def abandon(*_: object) -> None:
        raise Abandoned(received[0])

    def note(number: int, frame: FrameType | None) -> None:
        if grace_s and not received:
            signal.signal(signal.SIGALRM, abandon)
            signal.setitimer(signal.ITIMER_REAL, grace_s)
        received.append(number)
        if not grace_s:
            signal.signal(number, before[number])

    before: dict[int, Any] = {int(number): signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        if grace_s:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
