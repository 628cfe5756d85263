"""``nas-train architecture=...``: train one subnetwork alone, and what it is to be compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import stoppable, tensorboard
from nas.cli.torchrun import world_size
from nas.config import given, yaml_of
from nas.errors import require
from nas.files import only_one

if TYPE_CHECKING:
    from rich.console import Console

    from nas.settings import TrainRunSettings


def retrain_job(settings: TrainRunSettings, folder: Path, out: Console) -> dict[str, Any]:
    """Train, or go on training, in folders inside ``folder``; print what came out side by side."""
    from nas.train import comparison, retrain

    text = yaml_of(settings)
    with only_one(folder), stoppable(out, settings.run, lambda: ", saved"):
        result = retrain(settings, folder, text, out.print if settings.track.progress else lambda line: None)
    out.print(comparison(result))
    out.print(f"run:         {folder}")
    if "tensorboard" in settings.track.writers:
        out.print(tensorboard(folder))
    return figures(result.rows[0])


def with_source(settings: TrainRunSettings) -> TrainRunSettings:
    """The settings of a retraining in full: with what is the checkpoint's or the search's, and ``best`` by its name."""
    from hydra.core.hydra_config import HydraConfig

    from nas.checkpoint import agreed, settings_of
    from nas.export import find_source
    from nas.settings import train_settings

    rule = "trains its networks in one process"
    require(world_size() == 1, "architecture", settings.architecture, rule, "leave torchrun out")
    words, search = given(settings, HydraConfig.get().overrides.task), settings.search
    if search or settings.architecture == "best":
        source = find_source(settings.checkpoint, search, settings.architecture, weights=False)
        settings = replace(settings, checkpoint=source.checkpoint, architecture=source.architecture, search="")
    if settings.checkpoint:
        return agreed(settings, settings_of(settings.checkpoint), "checkpoint", settings.checkpoint, words)
    if search:
        from nas.search import read_result

        result = read_result(Path(search))
        own = train_settings({"space": result.space, "data": result.data, "seed": settings.seed})
        return agreed(settings, own, "search", search, words)
    return settings


def figures(row: Any) -> dict[str, Any]:
    """What a sweep's table shows of a network: its architecture and accuracies."""
    return {name: getattr(row, name) for name in ("architecture", "val_accuracy", "test_accuracy")}
