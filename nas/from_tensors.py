"""From images in memory to a trained supernet in one call, for a program or a notebook."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from nas.checkpoint import Trained, calibrated, plain_network, saved
from nas.data import ImageSet, Splits, image_set
from nas.data.images import statistics, stratified
from nas.export import Normalised
from nas.files import only_one
from nas.search import Search, SearchOutcome, SearchTarget, search
from nas.seeds import generator
from nas.settings import (
    GROUPS,
    CustomSettings,
    GateSettings,
    SearchRunSettings,
    SearchSettings,
    SpaceSettings,
    TensorSettings,
    TrackSettings,
    TrainRunSettings,
)
from nas.settings.rules import one_of
from nas.space import Architecture, ModuleSpace, SearchSpace
from nas.train import EvalResult, Report, Run, evaluate, fit, make_report

Network = nn.Module | Callable[[], nn.Module] | SearchSpace | SpaceSettings


@dataclass(frozen=True, eq=False, repr=False)
class TrainedSupernet(Trained):
    """What :func:`train_supernet` gives: a trained supernet with its space, its images and what was measured.

    Attributes:
        report: accuracies of the subnetworks that stand for the supernet, on validation and test images.
        run: the training; its ``gate`` says what a gate that learns prefers.
    """

    report: Report
    run: Run
    _kept: TemporaryDirectory | None = field(default=None)

    def __repr__(self) -> str:
        row = self.report.subnetworks[0]
        accuracy = f"val {row.val_accuracy:.1%}, test {row.test_accuracy:.1%}"
        return f"TrainedSupernet(best {row.architecture} ({row.choices}): {accuracy}; {self.space!r})"

    @property
    def best(self) -> Architecture:
        """The best on validation images of the subnetworks that were evaluated at the end of the training."""
        return self.space.decode(self.report.subnetworks[0].architecture)

    def evaluate(self, architecture: Architecture | None = None, split: str = "val") -> EvalResult:
        """Accuracy and loss of a subnetwork, the best if left out, on ``val``, ``test`` or ``train``."""
        path = self.space.validate(architecture or self.best)
        norms = self.calibration() if self.settings.evaluate.recalibrate else None
        images, precision = self.batches(self.held_out(split)), self.settings.train.way.precision
        return evaluate(self.supernet, [path], images, norms, precision=precision)[0]

    def subnetwork(self, architecture: Architecture | None = None) -> nn.Module:
        """A subnetwork, the best if left out, as a plain module in eval mode with no gate in it: a copy.

        It takes images as they are, uint8 ``(B, C, H, W)``, normalises them and gives logits ``(B, classes)``.
        """
        path = self.space.validate(architecture or self.best)
        plain = plain_network(calibrated(self, path), path, self.splits.input_shape)
        return Normalised(plain, self.splits.mean, self.splits.std)

    def search(self, folder: Path | str | None = None, seed: int = 0, **settings: Any) -> SearchOutcome:
        """Search this supernet, as ``nas-search`` does.

        Args:
            folder: where the search writes, and goes on; nothing is left if it is left out.
            seed: of the search.
            settings: of :class:`nas.settings.SearchSettings`, as in ``objectives=["accuracy", "flops"], trials=200``.

        Raises:
            NasError: the settings cannot be used.
        """
        how = SearchRunSettings(checkpoint=str(self.path), search=SearchSettings(**settings), seed=seed, run="search")
        own = self.settings
        target = SearchTarget(self.space, own.space, own.data, self.splits, seed, self, self.digest)
        with TemporaryDirectory() as temporary:
            run = Search(how, Path(folder or temporary), target)
            with closing(run.study):
                return search(run)


def train_supernet(
    network: Network,
    images: Any,
    labels: Any = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    gate: str | GateSettings | None = None,
    seed: int | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    test: Any = None,
    classes: Sequence[str] | None = None,
    crop: int = 0,
    flip: bool = False,
    balance: str = "none",
    folder: Path | str | None = None,
    progress: bool = True,
    settings: TrainRunSettings | None = None,
) -> TrainedSupernet:
    """Train a supernet on images in memory.

    Args:
        network: a module with gated blocks in it and ``forward(x, architecture)``, of which a copy is trained; a
            function or class that makes one; a space; or its settings, as in ``ChainSettings(widths=[8, 16])``.
        images: uint8 ``(N, C, H, W)``, or floats from 0 to 1, tensor or array; or, without ``labels``, a pair
            ``(images, labels)``, a data set as torchvision has them (:func:`nas.data.from_dataset`), or what that
            gives. They are normalised here.
        labels: ints ``(N,)`` from 0 on.
        epochs: 20 if left out; where the next four are left out too, they are those of ``settings``.
        batch_size: 64.
        lr: the largest learning rate, 0.05 with SGD.
        gate: ``uniform``, ``fair``, ``learned``, or the settings of a gate.
        seed: of weights, splits, paths and batches, 0.
        val_fraction: share of ``images`` that is held out to compare subnetworks on.
        test_fraction: share that is held out for the last word, where ``test`` is left out.
        test: a pair ``(images, labels)``, or a data set, that is not in ``images``.
        classes: their names; those of the data set, or numbers, if left out.
        crop: pixels that random crops of the training images may move by.
        flip: mirror half of the training images left to right.
        balance: ``sampler`` draws images of every class equally often.
        folder: keeps checkpoints, curves and a report; the same call goes on there, and returns at once where it has
            finished. Without one, nothing is left when the result is gone.
        progress: draw a bar and print a line an epoch.
        settings: everything else; its ``space``, ``gate`` and ``data`` are replaced.

    Raises:
        NasError: images, network or settings cannot be used, or the training diverged.
        Interrupted: SIGINT or SIGTERM came, and steps are left; with a ``folder`` the same call goes on.
    """
    given = settings or TrainRunSettings(track=TrackSettings(writers=["tensorboard"] if folder else []))
    pool = image_set(images, labels, classes)
    tested = None if test is None else image_set(test, classes=pool.classes)
    kept = TemporaryDirectory(prefix="nas-") if folder is None else None
    space, described = _space_of(network)
    settings = replace(
        given,
        space=described,
        gate=given.gate if gate is None else _gate_of(gate),
        data=TensorSettings(
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            balance=balance,
            crop=crop,
            flip=flip,
            digest=_digest(pool, tested),
        ),
        optimizer=given.optimizer if lr is None else replace(given.optimizer, lr=lr),
        train=replace(
            given.train,
            epochs=given.train.epochs if epochs is None else epochs,
            batch_size=given.train.batch_size if batch_size is None else batch_size,
        ),
        track=replace(given.track, progress=progress),
        seed=given.seed if seed is None else seed,
    )
    where = Path(kept.name if kept else str(folder))
    where.mkdir(parents=True, exist_ok=True)
    with only_one(where):
        run = Run(settings, where, splits=_split(pool, tested, settings), space=space)
        with closing(run.tracker.writer):
            fit(run)
            report = make_report(run)
    supernet = deepcopy(run.supernet).cpu()
    supernet.load_state_dict(run.optimizer.averages() or {}, strict=False)
    return TrainedSupernet(
        saved(where)[0], run.step, settings, run.splits, run.space, supernet.eval(), report, run, kept
    )


def _split(pool: ImageSet, test: ImageSet | None, settings: TrainRunSettings) -> Splits:
    data, seed = settings.data, settings.seed
    assert isinstance(data, TensorSettings)
    if test is None:
        pool, test = stratified(pool, data.test_fraction, generator(seed, "test"), "test_fraction")
    train, val = stratified(pool, data.val_fraction, generator(seed, "split"), "val_fraction")
    return Splits(train, val, test, *statistics(train))


def _digest(*sets: ImageSet | None) -> str:
    found = hashlib.blake2b(digest_size=10)
    for one in sets:
        if one is not None:
            for index in one.chunks():
                found.update(one.take(index).numpy().data)
            found.update(one.labels.numpy().data)
    return found.hexdigest()


def _space_of(network: Network) -> tuple[SearchSpace | None, SpaceSettings]:
    """The space, or None where its settings say all, and its settings, by which other commands may find it again."""
    if isinstance(network, SpaceSettings):
        return None, network
    space = network if isinstance(network, SearchSpace) else ModuleSpace(network)
    maker = type(network) if isinstance(network, (nn.Module, SearchSpace)) else network
    name = getattr(maker, "__name__", "")
    return space, CustomSettings(space.name, f"{maker.__module__}:{name if name.isidentifier() else 'network'}")


def _gate_of(gate: str | GateSettings) -> GateSettings:
    if isinstance(gate, GateSettings):
        return gate
    one_of("gate", gate, *GROUPS["gate"])
    settings: GateSettings = GROUPS["gate"][gate]()
    return settings
