"""Architectures that are trained alone: what a network is worth, where a supernet only estimates it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from nas.checkpoint import Initial, calibrated, must_be_trusted, saved
from nas.data import Batches
from nas.errors import require
from nas.search.target import SearchTarget
from nas.seeds import derive
from nas.settings import DistSettings, FixedGateSettings, SearchSettings, TrackSettings, TrainRunSettings
from nas.space import Architecture, SearchSpace
from nas.track import Progress, Tracker
from nas.train import Run, fit

FOLDER = "trainings"
LONGEST_NAME = 80
SEEDS = 2**31
"""Seeds of trainings are below this, so that they can be typed."""


@dataclass(frozen=True)
class Training:
    """What the training of one architecture alone has shown.

    Attributes:
        accuracy: on the validation images after ``epochs``, 0 to 1.
        loss: mean cross-entropy there.
        epochs: that were trained.
        seconds: of the steps, those of processes that were killed in between included.
        train_losses: the mean loss of the steps of each epoch.
    """

    accuracy: float
    loss: float
    epochs: int
    seconds: float
    train_losses: Sequence[float]


def to_the_end(epochs: int, train_losses: Sequence[float]) -> bool:
    """Go on at every rung."""
    return True


class Trainings:
    """Trains architectures alone, each in a folder of its own with its curve and its last checkpoint.

    A training is a run of ``nas-train`` with a fixed gate and ``data.split_seed``, so that all of them learn on the
    same images and are compared on the same ones. It follows the settings of the checkpoint's run, or the defaults of
    ``nas-train`` where there is no checkpoint. A training that was killed goes on from its last checkpoint.

    Args:
        target: whose architectures are trained.
        settings: of the search.
        folder: of the search; the trainings are in ``trainings/<architecture>_<draw>`` there.

    Attributes:
        watch: called after each step with the share of the whole training that is done, 0 to 1.

    Raises:
        SettingError: the supernet's weights are to be inherited, and there is no supernet.
        CheckpointError: the checkpoint's run called a function that ``search.train.trusted`` does not name.
        DataError: there are fewer training images than a batch has.
    """

    def __init__(self, target: SearchTarget, settings: SearchSettings, folder: Path) -> None:
        self._target, self._folder, self._inherit = target, folder / FOLDER, settings.train.inherit
        self._rungs = settings.halved_after
        rule, remedy = "needs a supernet to inherit from", "add checkpoint=outputs/train/RUN, or leave it out"
        require(not self._inherit or target.trained is not None, "search.train.inherit", True, rule, remedy)
        plain = training_settings(target, settings)
        size, images = plain.train.batch_size, len(target.splits.train)
        rule, remedy = f"the train split has only {images} images", f"write search.train.batch_size={images} or less"
        require(size <= images, "search.train.batch_size", size, rule, remedy)
        self._steps_per_epoch = Batches.of(target.splits, plain).steps_per_epoch
        # A point of the curve is an epoch. The validation images are looked at where it ends and not before.
        # None is a run in TensorBoard, which would show fifty of them where it is asked for the search.
        track = TrackSettings(log_every=self._steps_per_epoch, writers=[], progress=False)
        self.settings = replace(plain, track=track)
        self.watch: Callable[[float], None] = lambda share: None

    def __call__(
        self,
        architecture: Architecture,
        draw: int = 0,
        goes_on: Callable[[int, Sequence[float]], bool] = to_the_end,
    ) -> Training:
        """Train one architecture, from where its training is.

        Args:
            architecture: what is trained.
            draw: the number of the training; with the seed of the search it decides the weights and the batches, which
                trainings of the same draw have in common.
            goes_on: whether a training goes on that has made so many epochs, with such losses; asked at each rung.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the training is saved.
            DivergedError: the loss is no longer finite.
        """
        run = self._run(architecture, draw)
        epochs = self.settings.train.epochs
        with closing(run.tracker.writer):
            for epoch in (*self._rungs, epochs):
                if epoch * self._steps_per_epoch < run.step:
                    continue  # it was passed before a kill
                fit(run, epoch * self._steps_per_epoch)
                losses = self._losses(run)
                if epoch < epochs and not goes_on(epoch, losses):
                    break
            if run.step < run.total_steps:
                run.validate()
                run.save()  # with that point of the curve
            found = (run.evaluated or run.evaluate("val"))[0]
        return Training(found.accuracy, found.loss, len(losses), run.tracker.seconds(), losses)

    def folder_of(self, architecture: Architecture, draw: int) -> Path:
        """Where a training is."""
        return self._folder / f"{name_of(self._target.space, architecture)}_{draw}"

    def seed_of(self, draw: int) -> int:
        """The seed of the weights and batches of a draw, whichever architecture is trained."""
        return derive(self._target.seed, "training", draw) % SEEDS

    def drop_weights(self, architecture: Architecture, draw: int) -> None:
        """Remove the checkpoints of a training that has ended; its curve stays."""
        for path in saved(self.folder_of(architecture, draw)):
            path.unlink()

    def _run(self, architecture: Architecture, draw: int) -> Run:
        folder = self.folder_of(architecture, draw)
        gate = FixedGateSettings(architecture=self._target.space.encode(architecture))
        settings = replace(self.settings, gate=gate, seed=self.seed_of(draw))
        initial, splits = self._initial(architecture, folder), self._target.splits
        return Run(settings, folder, "", initial, splits=splits, progress=_Watched(self, self._steps_per_epoch))

    def _initial(self, architecture: Architecture, folder: Path) -> Initial | None:
        trained = self._target.trained
        if not self._inherit:
            return None
        assert trained is not None, "the settings ask for a checkpoint"
        if saved(folder):
            return Initial({}, trained.digest)  # it goes on with its own weights
        return Initial(calibrated(trained, architecture).state_dict(), trained.digest)

    def _losses(self, run: Run) -> list[float]:
        lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
        return [float(line["train/loss"]) for line in lines if "train/loss" in line]


class _Watched(Progress):
    """Prints nothing, and says how far a training is."""

    def __init__(self, trainings: Trainings, steps_per_epoch: int) -> None:
        super().__init__(trainings.settings.train.epochs * steps_per_epoch, steps_per_epoch, 0, shown=False)
        self._watch = trainings.watch

    def advance(self, step: int, tracker: Tracker) -> None:
        """Say that ``step`` steps have been made."""
        self._watch(step / self.total_steps)


def training_settings(target: SearchTarget, settings: SearchSettings) -> TrainRunSettings:
    """What all trainings of a search have in common: as the checkpoint's run, or as nas-train by default."""
    how = settings.train
    if target.trained is not None:
        base = target.trained.settings
        must_be_trusted(target.trained.path, base, how.trusted, "search.train.trusted")
    else:
        base = TrainRunSettings(space=target.space_settings, data=target.data_settings, seed=target.seed)
    split_seed = base.seed if base.data.split_seed is None else base.data.split_seed
    train = replace(
        base.train,
        epochs=how.epochs,
        batch_size=how.batch_size or base.train.batch_size,
        init="",
        threads=0,  # they are set for the whole search
        fast="none",  # all in one way, whatever else the machine does while one of them begins
    )
    return replace(
        base,
        data=replace(base.data, split_seed=split_seed),
        optimizer=replace(base.optimizer, lr=how.lr or base.optimizer.lr),
        train=train,
        evaluate=replace(base.evaluate, recalibrate=False, every_epochs=how.epochs, images=0, interim_images=0),
        dist=DistSettings(),
        run=FOLDER,
    )


def name_of(space: SearchSpace, architecture: Architecture) -> str:
    """An architecture as the name of a folder: as text, or a digest of it where a folder cannot have that name."""
    text = space.encode(architecture)
    plain = re.fullmatch(r"[\w.+-]+", text, re.ASCII) is not None and len(text) <= LONGEST_NAME
    return text if plain else hashlib.sha256(text.encode()).hexdigest()[:16]
