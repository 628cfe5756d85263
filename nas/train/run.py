"""A training run: its parts put together, begun or continued, logged, saved and summed up."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas import checkpoint
from nas.checkpoint import Initial, begin_with, comparable
from nas.data import Batches, ImageSet, Ordered, Splits, identified, load_splits, ranking_images, unnormalise
from nas.dist import NO_EXCHANGE, SINGLE, GradientExchange, World, choose_device, set_cuda_flags
from nas.errors import CheckpointError, DivergedError, require
from nas.gate import build_gate
from nas.nn.compiled import compile_s
from nas.settings import TrainRunSettings, train_settings
from nas.settings.changed import changed
from nas.settings.plain import flat
from nas.settings.rules import AUTO
from nas.space import Architecture, SearchSpace, build_space
from nas.state import load_weights, must_fit
from nas.threads import Threads
from nas.track import NullWriter, Progress, Tracker, Writers
from nas.train.evaluation.subnetworks import EvalResult, architectures_to_evaluate, evaluate
from nas.train.fast import Trial, choose
from nas.train.gate_trainer import GateTrainer, NoGateTrainer
from nas.train.left import CHECKPOINT, EVALUATION, IMAGE, time_left
from nas.train.network import build_network, prepare
from nas.train.result import StepResult, Unread
from nas.train.schedule import Every, cycle_ends, rate_in_cycles
from nas.train.step import BranchNorms, Loss, TrainStep, check_finite
from nas.train.update.optimize import GatedOptimizer

NORMS_EVERY = 10
"""Steps between two measurements of the branches' gradient norms."""


class Run:
    """A training run: its parts put together, and what the loop does with them.

    Args:
        settings: the settings of the run.
        folder: where the run writes. If it holds checkpoints of a run with the same settings, that run goes on.
        config_text: the settings as YAML, for TensorBoard.
        initial: weights to begin with; a run that goes on has its own.
        world: this process among those that train the run; rank 0 alone writes.
        splits: the images that ``settings`` name, where they are in memory already.
        progress: is told of the steps and evaluations; the run's own bar if left out.
        given: names of settings, as in ``train.epochs``, to be shown beside the figures of a new run; those that are
            not at their defaults if left out.
        space: the one that ``settings`` name, where it is made already.

    Raises:
        NasError: settings, data, network or checkpoints are not usable; ``folder`` is as it was.
    """

    def __init__(
        self,
        settings: TrainRunSettings,
        folder: Path,
        config_text: str = "",
        initial: Initial | None = None,
        world: World = SINGLE,
        splits: Splits | None = None,
        progress: Progress | None = None,
        given: Collection[str] | None = None,
        space: SearchSpace | None = None,
    ) -> None:
        one, remedy = not settings.architecture, "call nas.train.retrain, or train it with a fixed gate"
        require(one, "architecture", settings.architecture, "makes several runs, not one", remedy)
        settings = replace(settings, data=identified(settings.data))
        self.settings, self.folder, self.world = settings, folder, world
        state = checkpoint.load_newest(folder)
        initial = begin_with(folder, state, settings, initial)
        self.origin = initial.origin
        place = (state["step"], state["metrics_bytes"]) if state is not None else 0
        begun = (place, comparable(settings), settings.train.extend, self.origin, checkpoint.versions())
        rule, remedy = "has other settings, versions or checkpoints", "give all processes the same command and folder"
        world.assert_equal_across_ranks(begun, "run", folder, rule, remedy)
        self.device = choose_device(settings.train.device, world.local_rank if world.size > 1 else None)
        set_cuda_flags(self.device, settings.train)
        alone = world.size == 1 and self.device.type == "cpu"  # torchrun sets a number, unless it is told one
        self.threads = Threads(settings.train.threads if alone or settings.train.threads != AUTO else 0)
        with world.main_process_first():
            shown = settings.track.progress and world.is_main
            self.splits = splits or load_splits(settings.data, settings.seed, shown)
        self.space = (space or build_space(settings.space, *self.splits.sizes)).opened(settings.gate.numbers)
        self.supernet, self.flops = build_network(settings, self.space, self.splits, initial, self.device, world)
        self.left_open, self.timings = settings.train.left_open, ""
        self._choose_way(state)
        prepare(self.supernet, self.settings, world)
        self._build_steps(state)
        self.step, self.to_be_evaluated = 0, False
        self.unread = Unread(settings.train.batch_size)
        self.evaluated: list[EvalResult] = []  # by the last evaluation of this process, if that took all images
        self._begin(state, config_text, changed(settings) if given is None else given)
        shown = settings.track.progress and world.is_main
        epochs = self.total_steps, self.steps_per_epoch, self.step
        self.progress = progress or Progress(*epochs, shown, left=time_left(self))

    def __repr__(self) -> str:
        return f"Run({self.folder}: step {self.step:,} of {self.total_steps:,}, {self.gate!r}, {self.space!r})"

    def _choose_way(self, state: dict[str, Any] | None) -> None:
        """Decide what ``train.fast`` leaves open: a run that goes on computes as it began."""
        train, world, seed = self.settings.train, self.world, self.settings.seed
        if state is not None:
            way, self.timings = train_settings(state["settings"]).train.way, str(state.get("timings", ""))
        else:
            steps = train.epochs * (len(self.splits.train) // train.batch_size)
            gate = build_gate(self.settings.gate, self.space, seed, steps, self.flops)
            paths = [gate.paths(number)[0] for number in range(4)]
            trial = Trial.of(self.supernet, paths, self.splits, train, self.device, world)
            way, self.timings = choose(train, trial, steps, self.threads)
        self.settings = replace(self.settings, train=train.computed(way))

    def _build_steps(self, state: dict[str, Any] | None) -> None:
        """What the loop calls in each step, and when the rest is due."""
        settings, train, world = self.settings, self.settings.train, self.world
        part = world.rank, world.size
        self.batches = Batches.of(self.splits, settings, "train", self.device, part)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.cycle_ends = cycle_ends(self.folder, state, settings, self.steps_per_epoch)
        epoch, last = self.steps_per_epoch, self.cycle_ends[-1]
        rate_in_cycles(settings, 0, self.cycle_ends, epoch)  # a schedule that is not there is refused now
        self.total_steps = last
        self.log_due = Every(settings.track.log_every, last)
        self.validation_due = Every(settings.evaluate.every_epochs * epoch, last)
        self.save_due = Every(train.save_every or epoch, last)
        self.optimizer = GatedOptimizer(self.supernet, settings.optimizer, train.clip_norm, train.ema_decay)
        loss_fn = Loss.of(train, self.splits.train, self.device)
        exchange = GradientExchange(world, self.optimizer, settings.dist) if world.size > 1 else NO_EXCHANGE
        norms = BranchNorms(self.supernet, NORMS_EVERY)
        self.train_step = TrainStep(self.supernet, self.optimizer, loss_fn, exchange, norms)
        self.gate = build_gate(settings.gate, self.space, settings.seed, self.cycle_ends[0], self.flops)
        self.train_gate = NoGateTrainer()
        if self.gate.learns:
            plain = Loss(precision=train.way.precision)
            held_out = Batches.of(self.splits, settings, "val", self.device, part).batch
            self.train_gate = GateTrainer(self.gate, self.supernet, plain, held_out, world)

    def _begin(self, state: dict[str, Any] | None, config_text: str, given: Collection[str]) -> None:
        names, is_main = self.settings.track.writers, self.world.is_main
        self.tracker = Tracker(NullWriter(), self.space.slots)
        if state is not None:
            remedy, whose = "take another run=NAME, or the network as it was", "its checkpoint "
            with must_fit(CheckpointError, "run", self.folder, remedy, whose):
                self._restore(state)
        if is_main and self.step < self.total_steps:
            (self.folder / "report.json").unlink(missing_ok=True)  # of a run that was shorter, or is gone
        if is_main and state is not None:
            self.tracker.writer = Writers(self.folder, names, self.step, state["metrics_bytes"])
        elif is_main:
            self.tracker.writer = Writers(self.folder, names)
            sample = unnormalise(self.batches.batch(0)[0].cpu(), self.splits.mean, self.splits.std)
            self.tracker.start(config_text, sample, self.splits.classes)
            params = {key.removesuffix(".name"): value for key, value in flat(comparable(self.settings)).items()}
            self.tracker.writer.hparams(params, [key.removesuffix(".name") for key in given])

    def _restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; ``ValueError`` if it is of another network."""
        if not 0 < state["step"] <= self.total_steps:
            raise ValueError(f"it is of step {state['step']} in a run of {self.total_steps}")
        load_weights(self.supernet, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.gate.load_state_dict(state["gate"])
        self.tracker.load_state_dict(state["track"])
        self.threads.go_on(state.get("threads", 0))
        self.step, self.to_be_evaluated = state["step"], state.get("to_be_evaluated") is True

    def paths(self) -> tuple[tuple[Architecture, ...], tuple[Architecture, ...]]:
        """The paths of this step: those of this process, and those of all processes."""
        if self.settings.dist.paths == "same":
            same = self.gate.paths(self.step)
            return same, same
        first = self.step * self.world.size
        each = [self.gate.paths(first + rank) for rank in range(self.world.size)]
        return each[self.world.rank], tuple(path for paths in each for path in paths)

    def learning_rate(self) -> float:
        """The learning rate of this step."""
        return rate_in_cycles(self.settings, self.step, self.cycle_ends, self.steps_per_epoch)

    def learn(self, result: StepResult) -> None:
        """Let the gate learn, if it is to, after the step that has found ``result``."""
        try:
            self.train_gate(self.step)
        except DivergedError:
            self.unread.check(result)  # a loss in training may have been the first
            raise

    def record(self, result: StepResult, data_s: float, step_s: float) -> None:
        """Count a step that was made, which took ``step_s`` seconds after ``data_s`` seconds for its batch."""
        self.unread.add(result, data_s, step_s)
        self.step += 1
        self.progress.advance(self.step, self.tracker)

    def read(self) -> None:
        """Read what the steps since the last call have found: who logs, evaluates or saves calls this, on all ranks.

        Raises:
            DivergedError: a loss was not finite, in all processes alike.
        """
        self.unread.read_into(self.tracker)

    def log(self, lr: float, paths: Sequence[Architecture]) -> None:
        """Write the training curves of the steps since the last call; ``paths`` are those of the last step."""
        self.read()
        skipped = sum(self.flops.skipped_share(path) for path in paths) / len(paths)
        extra = self.train_gate.curves(self.step, self.tracker.tags)
        if self.settings.train.way.compile != "none":
            extra["time/compile_s"] = compile_s()
        self.tracker.log(self.step, lr=lr, flops_skipped_share=skipped, extra=extra)

    def evaluate(
        self, split: str, architectures: list[Architecture] | None = None, interim: bool = False
    ) -> list[EvalResult]:
        """Evaluate subnetworks on ``val`` or ``test``, by default those that stand for the supernet; change nothing.

        ``interim`` takes fewer validation images, as the evaluations before the last one do.
        """
        settings, splits = self.settings, self.splits
        how = settings.evaluate.interim if interim else settings.evaluate

        def batches(images: ImageSet) -> Ordered:
            last = settings.train.way.channels_last
            return Ordered(images, splits.mean, splits.std, how.batch_size, self.device, last)

        if architectures is None:
            architectures = architectures_to_evaluate(self.gate, how.rounds)
        calibration = None
        if how.recalibrate:
            calibration = batches(splits.calibration(settings.seed, how.recalibrate_images))
        val = ranking_images(splits.val, settings.seed, how.images)
        images = batches(val if split == "val" else splits.test)
        weights, precision = self.optimizer.averages(), settings.train.way.precision
        return evaluate(self.supernet, architectures, images, calibration, weights, precision, self.space)

    def note(self, results: Sequence[EvalResult]) -> dict[str, float]:
        """Write what an evaluation at this step has found; returns the means and the best, by tag."""
        accuracies = [(found.architecture, found.accuracy) for found in results]
        return self.tracker.evaluated(self.step, accuracies, sum(found.loss for found in results) / len(results))

    def validate(self) -> None:
        """Evaluate subnetworks on the validation split and write the results: rank 0 for all.

        Before the last step that takes ``evaluate.interim_images``, and then all that the report rests on.
        With several processes the run is saved first: an evaluation may take longer than torchrun waits for a process
        to stop, and the run then goes on with the evaluation.
        """
        self.read()
        if not self.world.is_main:
            return
        if self.world.size > 1 and not self.to_be_evaluated:
            self.to_be_evaluated = True
            self.save()
        last = self.step == self.total_steps
        with self.progress.left.beside(EVALUATION):
            interim = not last and self.settings.evaluate.interim_images > 0
            results = self.evaluate("val", None, interim)
            self.evaluated = [] if interim else results
            self.to_be_evaluated = False
            values = self.note(results)
        with self.progress.left.beside(IMAGE):
            self.tracker.image(self.step, last=last)
        self.progress.epoch(self.step, values, self.tracker)

    def save(self) -> None:
        """Write a checkpoint of this step: rank 0 for all.

        Raises:
            DivergedError: a loss was not finite, or a weight is not; no checkpoint is written.
            CheckpointError: it could not be written; the ones before are intact.
        """
        self.read()
        if not self.world.is_main:
            return
        with self.progress.left.beside(CHECKPOINT):
            check_finite(self.supernet, self.settings.optimizer.lr, self.step)
            state = {
                "settings": comparable(self.settings),
                "left_open": self.left_open,
                "timings": self.timings,
                "initial": self.origin,
                "space": {"name": self.space.name, "slots": [[s.name, list(s.choices)] for s in self.space.slots]},
                "model": self.supernet.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "gate": self.gate.state_dict(),
                "track": self.tracker.state_dict(),
                "metrics_bytes": self.tracker.writer.flush(),
                "cycles": list(self.cycle_ends[:-1]),
                "to_be_evaluated": self.to_be_evaluated,
                "threads": self.threads.chosen,
            }
            checkpoint.save(self.folder, self.step, state)
