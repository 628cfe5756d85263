"""A training run: its parts put together, begun or continued, logged, saved and summed up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.cost import PathFlops
from nas.data import Batches, Splits, load_splits, ordered, unnormalise
from nas.dist import SINGLE, GradientExchange, World, choose_device, synchronise
from nas.errors import CheckpointError, DivergedError, require
from nas.gate import LearnedGate, build_gate
from nas.nn import gated_blocks
from nas.settings import TrainRunSettings
from nas.settings.compare import flat
from nas.space import Architecture, build_space, check_supernet
from nas.track import PROBABILITY, NullWriter, Progress, Tracker, Writer
from nas.train import checkpoint
from nas.train.evaluation import EvalResult, architectures_to_evaluate, evaluate
from nas.train.fits import misfit_of_run, misfit_of_weights
from nas.train.optimize import GatedOptimizer
from nas.train.same import must_be_same, plain
from nas.train.step import BranchNorms, GateTrainer, Loss


@dataclass(frozen=True, eq=False)
class Initial:
    """Weights that a run begins with instead of those of its seed.

    Attributes:
        weights: tensors by name, of the supernet or of a part of it.
        origin: where they come from; a run goes on only with weights of the same origin.
    """

    weights: dict[str, torch.Tensor]
    origin: str


class Run:
    """Everything a training run consists of.

    Args:
        settings: of the run.
        folder: where it writes; if it holds checkpoints of a run with the same settings, that run goes on.
        config_text: the settings as YAML, for TensorBoard.
        initial: weights to begin with; a run that goes on has its own.
        world: this process among those that train the run; rank 0 alone writes.

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
    ) -> None:
        one, remedy = not settings.architecture, "call nas.train.retrain, or train it with a fixed gate"
        require(one, "architecture", settings.architecture, "makes several runs, not one", remedy)
        self.settings, self.folder, self.origin = settings, folder, initial.origin if initial else ""
        self.world = world
        train, seed = settings.train, settings.seed
        state = checkpoint.load_newest(folder)
        if state is not None:
            must_be_same(folder, state, settings, self.origin)
        place = (state["step"], state["metrics_bytes"]) if state is not None else 0
        begun = (place, plain(settings), self.origin, checkpoint.versions())
        rule, remedy = "has other settings, versions or checkpoints", "give all processes the same command and folder"
        world.assert_equal_across_ranks(begun, "run", folder, rule, remedy)
        self.device = choose_device(train.device, world.local_rank if world.size > 1 else None)
        if train.threads:
            torch.set_num_threads(train.threads)
        with world.main_process_first():
            self.splits = splits = load_splits(settings.data, seed, settings.track.progress and world.is_main)
        self.space = build_space(settings.space, splits.channels, splits.image_size, len(splits.classes))
        supernet = self.space.supernet(seed)
        if initial is not None and state is None:
            unknown = supernet.load_state_dict(initial.weights, strict=False).unexpected_keys
            assert not unknown, f"initial weights of another network: {unknown}"
        check_supernet(self.space, supernet, splits.channels, splits.image_size, len(splits.classes))
        self.flops = PathFlops(self.space, supernet, splits.input_shape)
        self.supernet = supernet.to(self.device)
        if train.channels_last:
            self.supernet = self.supernet.to(memory_format=torch.channels_last)
        world.broadcast_(self.supernet.state_dict().values())
        if train.compile == "branches":
            for block in gated_blocks(self.supernet).values():
                for branch in block.branches:
                    branch.compile()
        if world.size > 1 and settings.dist.batchnorm == "sync":
            synchronise(self.supernet, world)
        self.optimizer = GatedOptimizer(self.supernet, settings.optimizer, train.clip_norm, train.ema_decay)
        self.exchange = GradientExchange(world, self.optimizer, settings.dist) if world.size > 1 else None
        self.loss_fn = Loss(train.label_smoothing, train.precision)
        self.batches = self._batches(splits, "train")
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = train.epochs * self.steps_per_epoch
        self.gate = build_gate(settings.gate, self.space, seed, self.total_steps)
        if isinstance(self.gate, LearnedGate):
            self.teacher, self.held_out = GateTrainer(self.supernet, self.loss_fn, world), self._batches(splits, "val")
        self.branch_norms = BranchNorms(self.supernet)
        self.step, self.to_be_evaluated = 0, False
        self.evaluated: list[EvalResult] = []  # by the last evaluation of this process
        self._begin(state, config_text)

    def _batches(self, splits: Splits, split: str) -> Batches:
        images, train = (splits.train if split == "train" else splits.val), self.settings.train
        return Batches(
            images,
            splits.mean,
            splits.std,
            self.settings.data,
            train.batch_size,
            self.settings.seed,
            self.device,
            train.channels_last,
            stream=split,
            part=(self.world.rank, self.world.size),
        )

    def _begin(self, state: dict[str, Any] | None, config_text: str) -> None:
        board, slots = self.settings.track.tensorboard, self.space.slots
        if state is not None:
            self._must_fit(state)
            self.step, self.to_be_evaluated = state["step"], state.get("to_be_evaluated") is True
            self._load_weights(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.gate.load_state_dict(state["gate"])
        if not self.world.is_main:
            self.tracker = Tracker(NullWriter(), slots)
        elif state is not None:
            writer = Writer(self.folder, board, self.step, state["metrics_bytes"])
            self.tracker = Tracker(writer, slots, state["track"])
        else:
            (self.folder / "report.json").unlink(missing_ok=True)  # of a run whose checkpoints are gone
            self.tracker = Tracker(Writer(self.folder, board), slots)
            sample = unnormalise(self.batches.batch(0)[0].cpu(), self.splits.mean, self.splits.std)
            self.tracker.start(config_text, sample, self.splits.classes)
            self.tracker.writer.hparams(flat(plain(self.settings)), ["val/accuracy", "train/loss"])
        shown = self.settings.track.progress and self.world.is_main
        self.progress = Progress(self.total_steps, self.steps_per_epoch, self.step, shown)

    def _must_fit(self, state: dict[str, Any]) -> None:
        why = misfit_of_weights(state["model"], self.supernet) or misfit_of_run(
            state, self.optimizer, self.gate, self.space.slots, self.total_steps
        )
        if why:
            rule = f"its checkpoint does not fit the network ({why})"
            raise CheckpointError("run", self.folder, rule, "take another run=NAME, or the network as it was")

    def _load_weights(self, model: dict[str, torch.Tensor]) -> None:
        try:
            self.supernet.load_state_dict(model)
        except RuntimeError as error:  # a user's own network may have changed under the same settings
            rule = f"its checkpoint does not fit the network ({' '.join(str(error).split()[:30])} ...)"
            raise CheckpointError("run", self.folder, rule, "take another run=NAME, or the network as it was") from None

    def paths(self) -> tuple[tuple[Architecture, ...], tuple[Architecture, ...]]:
        """The paths of this step: those of this process, and those of all processes."""
        if self.exchange is None or self.settings.dist.paths == "same":
            same = self.gate.paths(self.step)
            return same, same
        first = self.step * self.world.size
        each = [self.gate.paths(first + rank) for rank in range(self.world.size)]
        return each[self.world.rank], tuple(path for paths in each for path in paths)

    def log(self, lr: float, paths: tuple[Architecture, ...]) -> None:
        """Write the training curves of the steps since the last time."""
        skipped = sum(self.flops.skipped_share(path) for path in paths) / len(paths)
        extra = {}
        if isinstance(self.gate, LearnedGate):
            extra["gate/temperature"] = self.gate.temperature(self.step)
            tags = self.tracker.tags
            for slot, chances in enumerate(self.gate.probabilities()):
                if tags.has_curves[slot]:
                    extra |= {tags.choice(PROBABILITY, slot, k): chance for k, chance in enumerate(chances)}
        self.tracker.log(self.step, lr=lr, flops_skipped_share=skipped, extra=extra)

    def evaluate(self, split: str, architectures: list[Architecture] | None = None) -> list[EvalResult]:
        """Accuracy of subnetworks on ``val`` or ``test``; the supernet stays as it is."""
        settings, splits = self.settings.evaluate, self.splits
        if architectures is None:
            architectures = architectures_to_evaluate(self.gate, settings.rounds)
        how = (splits.mean, splits.std, settings.batch_size, self.device, self.settings.train.channels_last)
        calibration = None
        if settings.recalibrate:
            images = splits.calibration(self.settings.seed, settings.recalibrate_images)
            calibration = list(ordered(images, *how))
        weights = None
        if self.optimizer.average:
            names: dict[torch.Tensor, str] = {p: name for name, p in self.supernet.named_parameters()}
            weights = {names[p]: value for p, value in self.optimizer.average.items()}
        batches = list(ordered(splits.val if split == "val" else splits.test, *how))
        precision = self.settings.train.precision
        return evaluate(self.supernet, architectures, batches, calibration, weights, precision)

    def validate(self) -> None:
        """Judge subnetworks on the validation split and write what was found: rank 0 for all."""
        if not self.world.is_main:
            return
        self.evaluated = found = self.evaluate("val")
        self.tracker.evaluated(self.step, [(j.architecture, j.accuracy) for j in found])
        self.tracker.image(self.step, last=self.step == self.total_steps)
        mean = sum(j.accuracy for j in found) / len(found)
        self.progress.epoch(self.step, mean, max(j.accuracy for j in found), self.tracker)

    def save(self, to_be_evaluated: bool = False) -> None:
        """Write a checkpoint of this step: rank 0 for all.

        Args:
            to_be_evaluated: the evaluation of this step is still to come; a run that goes on begins with it.

        Raises:
            DivergedError: a weight is not finite; no checkpoint is written.
            CheckpointError: it could not be written; the ones before are intact.
        """
        if not self.world.is_main:
            return
        for name, tensor in self.supernet.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                rule = f"{name} is no longer finite at step {self.step}"
                raise DivergedError(
                    "optimizer.lr", self.settings.optimizer.lr, rule, "lower it, or set train.clip_norm=1"
                )
        state = {
            "settings": plain(self.settings),
            "initial": self.origin,
            "space": {"name": self.space.name, "slots": [[s.name, list(s.choices)] for s in self.space.slots]},
            "model": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gate": self.gate.state_dict(),
            "track": self.tracker.state_dict(),
            "metrics_bytes": self.tracker.writer.flush(),
            "to_be_evaluated": to_be_evaluated,
        }
        checkpoint.save(self.folder, self.step, state)
