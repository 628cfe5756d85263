"""A supernet out of a checkpoint, with the pictures and settings that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.data import ImageSet, Splits, load_splits, ordered
from nas.errors import CheckpointError, SettingError
from nas.seeds import generator
from nas.settings import TrainRunSettings, train_settings
from nas.space import SearchSpace, build_space, show_widths
from nas.train import checkpoint
from nas.train.evaluate import Batch


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained supernet and what belongs to it.

    Attributes:
        path: the checkpoint.
        step: of the run at which it was written.
        settings: of the run.
        splits: the run's pictures, split as in the run.
        space: that was trained.
        supernet: in eval mode, on the CPU; moving averages where the run keeps them, since they are what it judges.
    """

    path: Path
    step: int
    settings: TrainRunSettings
    splits: Splits
    space: SearchSpace
    supernet: nn.Module

    def batches(self, images: ImageSet, batch_size: int | None = None) -> list[Batch]:
        """Normalised batches of a split, ``(x, y)``, in order; of ``evaluate.batch_size`` unless told otherwise."""
        size = batch_size or self.settings.evaluate.batch_size
        mean, std, last = self.splits.mean, self.splits.std, self.settings.train.channels_last
        return list(ordered(images, mean, std, size, "cpu", last))

    def calibration(self, images: int | None = None) -> list[Batch]:
        """The training pictures that BatchNorm statistics are estimated on: the same ones as in the run itself.

        Args:
            images: how many; ``evaluate.recalibrate_images`` of the run when left out.
        """
        order = torch.randperm(len(self.splits.train), generator=generator(self.settings.seed, "recalibrate"))
        number = self.settings.evaluate.recalibrate_images if images is None else images
        return self.batches(self.splits.train.subset(order[:number]))


def load_trained(path: Path | str, progress: bool = False) -> Trained:
    """The supernet of a checkpoint, or of the newest checkpoint in a run's folder.

    Reading the file runs no code; building a custom space imports and calls the factory that it names: load such a
    checkpoint only if you trust it.

    Args:
        path: a ``step_*.pt``, or the folder of a run.
        progress: show a bar while pictures are decoded.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another version or another network.
        DataError: the run's pictures cannot be had.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError("checkpoint", path, "does not exist", "name the folder of a run of nas-train")
    if path.is_dir():
        found = checkpoint.saved(path)
        if not found:
            rule, remedy = "has no checkpoint in it", "name the folder of a run of nas-train"
            raise CheckpointError("checkpoint", path, rule, remedy)
        path = found[0]  # and if it is damaged, that is an error: an older one is another supernet
    state = checkpoint.load(path)
    try:
        settings = train_settings(state["settings"])
    except SettingError as error:
        wrote = state["versions"].get("gated-nas")
        rule = f"was written by gated-nas {wrote}: {error.key}={error.value} {error.rule}"
        raise CheckpointError("checkpoint", path, rule, error.remedy) from None
    splits = load_splits(settings.data, settings.seed, progress)
    space = build_space(settings.space, splits.channels, splits.image_size, len(splits.classes))
    supernet = space.supernet(settings.seed)
    _load_weights(supernet, state, path)
    show_widths(supernet, (splits.channels, splits.image_size, splits.image_size))
    if settings.train.channels_last:
        supernet = supernet.to(memory_format=torch.channels_last)
    return Trained(path, state["step"], settings, splits, space, supernet.eval())


@torch.no_grad()
def _load_weights(supernet: nn.Module, state: dict[str, Any], path: Path) -> None:
    try:
        supernet.load_state_dict(state["model"])
    except RuntimeError as error:  # a user's own network may have changed under the same settings
        rule = f"does not fit the network ({' '.join(str(error).split()[:30])} ...)"
        raise CheckpointError("checkpoint", path, rule, "take the network as it was") from None
    averages = state["optimizer"]["average"]
    if averages:
        trained = [p for p in supernet.parameters() if p.requires_grad]
        for parameter, average in zip(trained, averages, strict=True):
            parameter.copy_(average)
