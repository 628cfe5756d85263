"""What is searched: a trained supernet, or a space whose networks are looked at before any training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.data import Batch, Splits, load_splits, ordered
from nas.errors import CheckpointError, require
from nas.files import sha256_of
from nas.seeds import generator
from nas.settings import DataSettings, DigitsSettings, SearchRunSettings, SpaceSettings
from nas.settings.compare import differences
from nas.space import SearchSpace, build_space, check_supernet, show_widths
from nas.train import Trained, load_trained

PROXY_BATCHES = 2
"""The first is what all proxies see; ``zico`` needs the spread over several."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The space, its pictures, and the weights where there are trained ones.

    Attributes:
        trained: None without a checkpoint.
        digest: SHA-256 of the checkpoint; what it is, wherever it lies.
    """

    space: SearchSpace
    space_settings: SpaceSettings
    data_settings: DataSettings
    splits: Splits
    seed: int
    trained: Trained | None = None
    digest: str | None = None

    @classmethod
    def of(cls, settings: SearchRunSettings, progress: bool = False) -> Subject:
        """What the settings name.

        Raises:
            SettingError: they name neither a checkpoint nor a space.
            CheckpointError: the checkpoint cannot be used, or is of another space or other data than were named.
            NasError: the pictures or the network cannot be had.
        """
        if settings.checkpoint:
            return cls._of_checkpoint(settings, progress)
        remedy = "name a run of nas-train: checkpoint=outputs/train/first; or a space to look at untrained: space=chain"
        require(settings.space is not None, "checkpoint", "''", "a checkpoint or a space must be given", remedy)
        data = settings.data or DigitsSettings()
        splits = load_splits(data, settings.seed, progress)
        space = build_space(settings.space, splits.channels, splits.image_size, len(splits.classes))
        check_supernet(space, space.supernet(settings.seed), splits.channels, splits.image_size, len(splits.classes))
        return cls(space, settings.space, data, splits, settings.seed)

    @classmethod
    def _of_checkpoint(cls, settings: SearchRunSettings, progress: bool) -> Subject:
        factory = settings.factory or getattr(settings.space, "factory", "")
        trained = load_trained(settings.checkpoint, progress, factory)
        own = trained.settings
        for key, given, there in (("space", settings.space, own.space), ("data", settings.data, own.data)):
            if given is not None and given != there:
                changed = differences(asdict(there), asdict(given))
                changed = [text for text in changed if there.name == given.name or text.startswith("name:")]
                what = "of another space" if key == "space" else "trained on other data"
                rule = f"is a checkpoint {what} ({'; '.join(changed)})"
                raise CheckpointError("checkpoint", settings.checkpoint, rule, f"leave {key}= out, it has its own")
        digest = sha256_of(trained.path)
        return cls(trained.space, own.space, own.data, trained.splits, settings.seed, trained, digest)

    @cached_property
    def fresh(self) -> nn.Module:
        """The supernet with initial weights, for proxies."""
        supernet = self.space.supernet(self.seed).eval()
        show_widths(supernet, self.picture)
        return supernet

    @property
    def supernet(self) -> nn.Module:
        """The trained one where there is one."""
        return self.fresh if self.trained is None else self.trained.supernet

    @property
    def picture(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of one input."""
        return self.splits.input_shape

    def proxy_batches(self, images: int) -> list[Batch]:
        """Normalised training batches of ``images`` each, drawn by the seed.

        Raises:
            SettingError: there are too few pictures.
        """
        train = self.splits.train
        rule = f"{PROXY_BATCHES} batches are needed, and there are {len(train)} training pictures"
        remedy = f"write search.proxy_images={len(train) // PROXY_BATCHES} or less"
        require(PROXY_BATCHES * images <= len(train), "search.proxy_images", images, rule, remedy)
        order = torch.randperm(len(train), generator=generator(self.seed, "proxies"))
        chosen = train.subset(order[: PROXY_BATCHES * images])
        return list(ordered(chosen, self.splits.mean, self.splits.std, images, "cpu"))

    def recalibrates(self, asked: bool | None) -> bool:
        """Whether BatchNorm statistics are estimated anew for each subnetwork: as asked, or as the run judges."""
        if asked is not None or self.trained is None:
            return asked is not False
        return self.trained.settings.evaluate.recalibrate

    def definition(self) -> dict[str, Any]:
        """What tells it from another one, as plain data."""
        slots = [f"{slot.name}: {', '.join(slot.choices)}" for slot in self.space.slots]
        if self.trained is not None:
            return {"checkpoint": self.digest, "space": self.space.name, "slots": slots}
        return {
            "checkpoint": None,
            "space": asdict(self.space_settings),
            "data": asdict(self.data_settings),
            "slots": slots,
        }


def checkpoint_path(subject: Subject) -> Path | None:
    """Where the checkpoint lies, whole, whatever folder somebody else is in."""
    return None if subject.trained is None else subject.trained.path.resolve()
