"""What a search looks through: the subnetworks of a trained supernet, or a space whose networks are untrained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from nas.checkpoint import Trained, load_trained
from nas.data import Splits, identified, load_splits
from nas.errors import CheckpointError, require
from nas.settings import DataSettings, DigitsSettings, SearchRunSettings, SpaceSettings
from nas.settings.plain import differences
from nas.space import SearchSpace, build_space, check_supernet, infer_widths, warn_of_one


@dataclass(frozen=True, eq=False)
class SearchTarget:
    """The space, its images, and a trained supernet if there is one.

    Attributes:
        seed: of the search; the initial weights of untrained networks depend on it.
        trained: the supernet of the checkpoint; None without a checkpoint.
        digest: SHA-256 of the checkpoint, which identifies it wherever it lies.
    """

    space: SearchSpace
    space_settings: SpaceSettings
    data_settings: DataSettings
    splits: Splits
    seed: int
    trained: Trained | None = None
    digest: str | None = None

    @classmethod
    def of(cls, settings: SearchRunSettings, progress: bool = False) -> SearchTarget:
        """Load what the settings name.

        Raises:
            SettingError: they name neither a checkpoint nor a space.
            CheckpointError: the checkpoint cannot be used, or the settings name another space or other data.
            NasError: the images or the network cannot be had.
        """
        settings = replace(settings, data=identified(settings.data))
        if settings.checkpoint:
            return cls._of_checkpoint(settings, progress)
        remedy = "name a run of nas-train: checkpoint=outputs/train/first; or a space to look at untrained: space=chain"
        require(settings.space is not None, "checkpoint", "''", "a checkpoint or a space must be given", remedy)
        data = settings.data or DigitsSettings()
        splits = load_splits(data, settings.seed, progress)
        space = build_space(settings.space, *splits.sizes).opened(settings.open, "open")
        check_supernet(space, space.supernet(settings.seed), *splits.sizes)
        warn_of_one(space)
        return cls(space, settings.space, data, splits, settings.seed)

    @classmethod
    def _of_checkpoint(cls, settings: SearchRunSettings, progress: bool) -> SearchTarget:
        factory = settings.factory or ",".join(settings.space.called if settings.space else ())
        trained = load_trained(settings.checkpoint, progress, factory, settings.data)
        own = trained.settings
        for key, given, there in (("space", settings.space, own.space), ("data", settings.data, own.data)):
            if given is not None and given != there:
                changed = differences(asdict(there), asdict(given))
                changed = [text for text in changed if there.name == given.name or text.startswith("name:")]
                what = "of another space" if key == "space" else "trained on other data"
                rule = f"is a checkpoint {what} ({'; '.join(changed)})"
                raise CheckpointError("checkpoint", settings.checkpoint, rule, f"leave {key}= out, it has its own")
        warn_of_one(trained.space)
        return cls(trained.space, own.space, own.data, trained.splits, settings.seed, trained, trained.digest)

    def __repr__(self) -> str:
        return f"SearchTarget({self.trained or self.space!r})"

    @cached_property
    def fresh(self) -> nn.Module:
        """The supernet with initial weights, for proxies."""
        supernet = self.space.supernet(self.seed).eval()
        infer_widths(supernet, self.splits.input_shape)
        return supernet

    @property
    def supernet(self) -> nn.Module:
        """The trained supernet if there is one, else the fresh one."""
        return self.fresh if self.trained is None else self.trained.supernet

    @property
    def checkpoint(self) -> Path | None:
        """The absolute path of the checkpoint, for commands that run in another folder."""
        return None if self.trained is None else self.trained.path.resolve()

    def recalibrates(self, asked: bool | None) -> bool:
        """Whether BatchNorm statistics are estimated for each subnetwork: as asked, or as the training run does."""
        if asked is not None or self.trained is None:
            return asked is not False
        return self.trained.settings.evaluate.recalibrate

    def definition(self) -> dict[str, Any]:
        """What distinguishes this target from others, as plain data."""
        slots = [f"{slot.name}: {', '.join(slot.choices)}" for slot in self.space.slots]
        if self.space.several:
            slots = [f"{slot}; open {numbers}" for slot, numbers in zip(slots, self.space.numbers, strict=True)]
        if self.trained is not None:
            return {"checkpoint": self.digest, "space": self.space.name, "slots": slots}
        space, data = asdict(self.space_settings), asdict(self.data_settings)
        return {"checkpoint": None, "space": space, "data": data, "slots": slots}
