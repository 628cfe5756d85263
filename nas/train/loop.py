"""The training loop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from nas.gate import LearnedGate
from nas.train.optimize import learning_rate
from nas.train.step import train_step

if TYPE_CHECKING:
    from nas.train.run import Run

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


def fit(run: Run) -> None:
    """Train ``run`` from where it is to its end.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the run is saved.
        DivergedError: the loss stopped being finite; the last checkpoint is from before.
    """
    train, track = run.settings.train, run.settings.track
    with stop_signals() as received, run.progress:
        while run.step < run.total_steps:
            started = perf_counter()
            x, y = run.batches.batch(run.step)
            loaded = perf_counter()
            paths = run.gate.paths(run.step)
            lr = learning_rate(train, run.settings.optimizer.lr, run.step, run.total_steps, run.steps_per_epoch)
            norms_of = run.branch_norms if run.step % NORMS_EVERY == 0 else None
            result = train_step(run.supernet, run.optimizer, run.loss_fn, x, y, paths, lr, run.step, norms_of)
            if isinstance(run.gate, LearnedGate) and run.gate.is_due(run.step):
                run.teacher.step(run.gate, *run.held_out.batch(run.step), run.step)
            run.tracker.step(
                paths,
                loss=result.loss,
                correct=result.correct,
                images=len(y) * len(paths),
                step_s=perf_counter() - loaded,
                data_s=loaded - started,
                path_s=result.path_s,
                grad_norms=result.grad_norms,
            )
            run.step += 1
            run.progress.advance(run.step, result.loss, run.tracker)
            at_end = run.step == run.total_steps
            if run.step % track.log_every == 0 or at_end:
                run.log(lr, paths)
            if run.step % (run.steps_per_epoch * run.settings.evaluate.every_epochs) == 0 or at_end:
                run.evaluate()
            if run.step % (train.save_every or run.steps_per_epoch) == 0 or at_end or received:
                run.save()
            if received and not at_end:
                raise Interrupted(received[0])


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one is not caught."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {int(number): signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
