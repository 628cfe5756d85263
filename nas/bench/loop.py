"""What surrounds the steps of ``nas-train``: its batches, its loop, what it logs; and the memory that a run takes."""

from __future__ import annotations

import io
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nas.bench.compare import Ratio, interleave, ratio_of, times_in_turn
from nas.bench.gating import CPU, SGD, STANDALONE, Call, plain_step, standalone_two_branch
from nas.bench.jac.memory import MB, peak_mb
from nas.cost import count_parameters
from nas.cost.allocator import keep_freed_memory
from nas.data import Batches, load_splits
from nas.settings import (
    ChainSettings,
    EvaluateSettings,
    FixedGateSettings,
    SpaceSettings,
    SyntheticSettings,
    TrackSettings,
    TrainRunSettings,
    TrainSettings,
)
from nas.space import build_space
from nas.track import Progress
from nas.train import Run, fit
from nas.train.step import unmeasured

LOOP, LOGGING = "nas-train's images/s / the bare step's", "logging, TensorBoard and progress / a step"
STEPS = 60
"""Of a turn; the run has more of them, so that it is worth timing what ``train.fast=auto`` chooses."""
REMEMBERED = 20
"""Steps of a run whose memory is measured."""


def data_path(rounds: int, device: torch.device = CPU) -> Ratio:
    """One batch of 64: shuffle, crop, flip, normalise; against the stand-alone step on it."""
    data = SyntheticSettings(size=20_000)
    splits, number = load_splits(data, 0), iter(range(10**9))
    batches = Batches(splits.train, splits.mean, splits.std, data, 64, 0, device)
    x, y = batches.batch(0)
    variants = {
        STANDALONE: plain_step(standalone_two_branch(), x, y),
        "data": lambda: batches.batch(next(number)),
    }
    return interleave(STANDALONE, variants, rounds)["data"]


class OnlySteps(Run):
    """A run that neither evaluates nor saves; ``silent``, it keeps no account of its steps either."""

    silent = False

    def validate(self) -> None:
        pass

    def save(self) -> None:
        pass

    def record(self, *args: Any, **figures: Any) -> None:
        if self.silent:
            self.step += 1
        else:
            super().record(*args, **figures)

    def log(self, *args: Any) -> None:
        if not self.silent:
            super().log(*args)


def bare_step(run: Run) -> Call:
    """The next step of ``run``, on a batch that lies there, with nothing around it and a rate that moves no weight.

    So network, way of computing, paths and images are those of the run.
    """
    step = replace(run.train_step, norms=unmeasured)
    turns = cycle([(run.batches.batch(number), run.gate.paths(number), SGD.lr) for number in range(STEPS)])
    return lambda: step(*next(turns))


def steady(space: SpaceSettings, threads: int, device: torch.device = CPU) -> TrainRunSettings:
    """A run of 240 steps on noise, whose weights hold still."""
    return TrainRunSettings(
        space=space,
        optimizer=SGD,
        data=SyntheticSettings(size=64 * STEPS + 500, val_fraction=0.1),
        train=TrainSettings(epochs=4, threads=threads, device=str(device)),
        evaluate=EvaluateSettings(every_epochs=10**6),
        track=TrackSettings(progress=False),
    )


def whole_loop(space: SpaceSettings, rounds: int, threads: int, device: torch.device = CPU) -> dict[str, Ratio]:
    """``nas-train``'s loop with data, gate, logging, TensorBoard and a bar, against its bare steps.

    ``LOOP`` is the ratio of images/s: 1 would be a loop that costs nothing. ``LOGGING`` is the share of a bare step
    that goes if nothing is counted, measured, logged or shown.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = OnlySteps(steady(space, threads, device), Path(folder))
        measuring, hidden = run.train_step, run.progress
        terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
        shown = Progress(run.total_steps, run.steps_per_epoch, 0, True, terminal)
        bare = bare_step(run)

        def loop(silent: bool) -> None:
            run.step, run.silent, run.progress = 0, silent, hidden if silent else shown
            run.train_step = replace(measuring, norms=unmeasured) if silent else measuring
            fit(run, until=STEPS)

        def bare_steps() -> None:
            for _ in range(STEPS):
                bare()

        ways: dict[str, Call] = {"bare": bare_steps, "loop": partial(loop, False), "silent": partial(loop, True)}
        times = times_in_turn(ways, max(3, rounds // 4), calls=1)
        run.tracker.writer.close()
    spent = [loop - silent for loop, silent in zip(times["loop"], times["silent"], strict=True)]
    return {LOOP: ratio_of(times["bare"], times["loop"]), LOGGING: ratio_of(spent, times["bare"])}


def memory_calls() -> dict[str, Call]:
    """Steps of a run of chain, and steps of a run whose network is the largest of its subnetworks alone."""
    keep_freed_memory()
    every = steady(ChainSettings(), 1)
    # A larger batch, so that activations are most of it.
    every = replace(every, data=SyntheticSettings(size=256 * STEPS), train=replace(every.train, batch_size=256))
    alone = replace(every, space=ChainSettings(candidates=["conv3"]), gate=FixedGateSettings(architecture="0-0-0-0"))
    splits = load_splits(every.data, every.seed)

    def run(settings: TrainRunSettings, steps: int = REMEMBERED) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run = OnlySteps(settings, Path(folder), splits=splits)
            fit(run, until=steps)
            run.tracker.writer.close()

    run(alone, 2)  # imports what both use
    return {"every": partial(run, every), "alone": partial(run, alone)}


def memory(rounds: int) -> Ratio:
    """Peak memory of a run above its data, without the supernet's weights, against that of a stand-alone network's run.

    Each in fresh processes; ``ms`` is MB here.
    """
    weights = 4 * count_parameters(build_space(ChainSettings()).supernet()) / MB
    pairs = [(peak_mb("chain", "every", 1) - weights, peak_mb("chain", "alone", 1)) for _ in range(rounds)]
    every, alone = zip(*pairs, strict=True)
    return replace(ratio_of(every, alone), ms=statistics.median(every))
