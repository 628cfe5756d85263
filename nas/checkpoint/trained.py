"""A supernet out of a checkpoint, with the images and settings that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.checkpoint.file import load, newest
from nas.checkpoint.initial import AVERAGE
from nas.data import Batch, ImageSet, Ordered, Splits, load_splits, ranking_images
from nas.errors import CheckpointError, DataError, SettingError
from nas.files import sha256_of
from nas.settings import (
    CifarSettings,
    DataSettings,
    FolderSettings,
    SpaceSettings,
    TrainRunSettings,
    rules,
    train_settings,
)
from nas.settings.data import PLACE
from nas.space import SearchSpace, build_space, infer_widths
from nas.state import load_weights, must_fit, restore


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained supernet and what belongs to it.

    Attributes:
        path: the checkpoint.
        step: of the run at which it was written.
        settings: of the run.
        splits: the run's images, split as in the run.
        space: that was trained.
        supernet: in eval mode, on the CPU; with the moving averages of its weights if the run evaluates those.
    """

    path: Path
    step: int
    settings: TrainRunSettings
    splits: Splits
    space: SearchSpace
    supernet: nn.Module

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path}: step {self.step:,}, {self.space!r})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the checkpoint, in hexadecimal: what it is, wherever it lies."""
        return sha256_of(self.path)

    def batches(self, images: ImageSet, batch_size: int | None = None) -> Sequence[Batch]:
        """Normalised batches of a split, in order; of ``evaluate.batch_size`` images if ``batch_size`` is left out."""
        size = batch_size or self.settings.evaluate.batch_size
        mean, std, last = self.splits.mean, self.splits.std, self.settings.train.way.channels_last
        return Ordered(images, mean, std, size, "cpu", last)

    def sample(self) -> Tensor:
        """The first batch of validation images, normalised."""
        number = min(len(self.splits.val), self.settings.evaluate.batch_size)
        return self.batches(self.splits.val.subset(torch.arange(number)))[0][0]

    def held_out(self, split: str, images: int | None = None) -> ImageSet:
        """The images of a split that subnetworks are compared on.

        Args:
            split: ``train``, ``val`` or ``test``.
            images: how many at most, 0 for all; left out, the run's own on ``val``, else all.
        """
        parts = {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}
        if images is None:
            images = self.settings.evaluate.images if split == "val" else 0
        return ranking_images(parts[split], self.settings.seed, images)

    def calibration(self, images: int | None = None) -> Sequence[Batch]:
        """The training images that BatchNorm statistics are estimated on: the same ones as in the run itself.

        Args:
            images: how many; ``evaluate.recalibrate_images`` of the run when left out.
        """
        number = self.settings.evaluate.recalibrate_images if images is None else images
        return self.batches(self.splits.calibration(self.settings.seed, number))


def load_trained(
    path: Path | str, progress: bool = False, factory: str = "", data: DataSettings | None = None
) -> Trained:
    """The supernet of a checkpoint, or of the newest checkpoint in a run's folder.

    The file may come from anybody: reading it runs no code, nothing that it names is imported or called, and nothing is
    downloaded. Images are read from where it says. The network of a ``custom`` space is built by its own factory, which
    the caller has to name.

    Args:
        path: a ``step_*.safetensors``, or the folder of a run.
        progress: show a bar while images are decoded.
        factory: of a ``custom`` space, ``package.module:callable``, the one that the checkpoint names too; it is called
            with the checkpoint's ``kwargs``. Not looked at where the space is another.
        data: where the images are now, if it is of the same kind as the checkpoint's; no more of it is looked at.

    Raises:
        CheckpointError: there is none, it is damaged, it is of another version or another network, or ``factory`` is
            not the one that it names.
        DataError: the run's images cannot be had.
    """
    path = newest(path)
    state = load(path)
    settings = _settings_of(path, state)
    must_be_named(path, settings.space, factory)
    if type(data) is type(settings.data):
        place = {name: getattr(data, name) for name in PLACE if hasattr(data, name)}
        settings = replace(settings, data=replace(settings.data, **place))
        splits = load_splits(settings.data, settings.seed, progress)
    else:
        splits = _load_images(settings, progress)
    space = build_space(settings.space.without_weights(), *splits.sizes).opened(settings.gate.numbers)
    supernet = _supernet_of(path, state, settings, space)
    infer_widths(supernet, splits.input_shape)
    if settings.train.way.channels_last:
        supernet = supernet.to(memory_format=torch.channels_last)
    return Trained(path, state["step"], settings, splits, space, supernet.eval())


def settings_of(path: Path | str) -> TrainRunSettings:
    """The settings of the run that wrote a checkpoint, or of the newest checkpoint in a run's folder.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another version.
    """
    path = newest(path)
    return _settings_of(path, load(path))


def _settings_of(path: Path, state: dict[str, Any]) -> TrainRunSettings:
    try:
        return train_settings(state["settings"])
    except SettingError as error:
        wrote = state["versions"].get("gated-nas")
        rule = f"was written by gated-nas {wrote}: {error.key}={error.value} {error.rule}"
        raise CheckpointError("checkpoint", path, rule, error.remedy) from None


def _supernet_of(path: Path, state: dict[str, Any], settings: TrainRunSettings, space: SearchSpace) -> nn.Module:
    """The network of ``space`` with the checkpoint's weights, or the moving averages of them if there are any."""
    fits = partial(must_fit, CheckpointError, "checkpoint", path, "take the network as it was")
    if not settings.space.called:
        with torch.device("meta"):  # sizes that the file does not bear out are refused before they take memory
            empty = space.build()
        with fits():
            load_weights(empty, state["model"])
    supernet = space.supernet(settings.seed)
    with fits():
        load_weights(supernet, state["model"])
        averages = {name: value for name, value in state["optimizer"].items() if name.startswith(AVERAGE)}
        if averages:
            restore({AVERAGE + name: p for name, p in supernet.named_parameters() if p.requires_grad}, averages)
    return supernet


def must_be_named(path: Path | str, settings: SpaceSettings, factory: str, key: str = "factory") -> None:
    """Refuse to call what a file names: any function of any module could stand there."""
    if called := settings.unnamed(factory):
        rule = f"the network of {path} is built by {called}, which is called only if you name it too"
        word = f"{key}={called}" if key == "factory" else f"space={settings.name} {key}={called}"
        if key == "space.model":
            word = "space=model, space.model= and space.gated= as for that run,"
        raise CheckpointError(key, factory or "''", rule, f"write {word} if you trust it")


def must_be_trusted(path: Path | str, settings: TrainRunSettings, trusted: Sequence[str], key: str) -> None:
    """Refuse to train as a file says if that calls what the user has not named.

    Args:
        path: of the file, for messages.
        settings: that it holds.
        trusted: what the user names.
        key: the setting that holds these.

    Raises:
        CheckpointError: something is not among them.
    """
    names = (settings.train.schedule, settings.train.loss, *settings.data.own_functions)
    called = [getattr(settings.optimizer, "factory", ""), *names]
    called = [name for name in dict.fromkeys(called) if rules.is_import_name(name)]
    if not {*called} <= {*trusted}:
        rule = f"{path} was trained by {', '.join(called)}, which a training calls only if you name it too"
        raise CheckpointError(key, f"[{','.join(trusted)}]", rule, f"write {key}=[{','.join(called)}] if you trust it")


def harmless(data: DataSettings) -> DataSettings:
    """The data set that a file names, where it has no say in what is downloaded and what folder is made."""
    if isinstance(data, FolderSettings) and not Path(data.cache).expanduser().is_dir():
        return replace(data, cache=FolderSettings.cache)
    return replace(data, download=False) if isinstance(data, CifarSettings) else data


def _load_images(settings: TrainRunSettings, progress: bool) -> Splits:
    """The images from where the file says."""
    data = harmless(settings.data)
    try:
        return load_splits(data, settings.seed, progress)
    except DataError as error:
        if not isinstance(data, CifarSettings):
            raise
        remedy = f"nothing is downloaded for a checkpoint: a run of nas-train data={data.name} data.root=PATH does it"
        raise DataError(error.key, error.value, error.rule, remedy) from None
