"""Who may go on with a checkpoint: what makes two trainings the same run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.errors import CheckpointError, SettingError
from nas.settings import TrainRunSettings, train_settings
from nas.settings.plain import differences


@dataclass(frozen=True, eq=False)
class Initial:
    """Weights that a run begins with instead of those of its seed.

    Attributes:
        weights: tensors by name, for the whole supernet or a part of it.
        origin: identifies where the weights come from; a run goes on only with weights of the same origin.
    """

    weights: dict[str, Tensor]
    origin: str


def comparable(settings: TrainRunSettings) -> dict[str, Any]:
    """The settings that decide what a training gives, as plain data: not the run's name, nor who is shown it."""
    data = asdict(settings)
    for name in ("run", "architecture", "checkpoint", "search"):
        data.pop(name)
    for name in ("check_every", "timeout_s"):
        data["dist"].pop(name)
    for name in ("progress", "writers"):
        data["track"].pop(name)
    return data


def check_same_run(folder: Path, state: dict[str, Any], settings: TrainRunSettings, origin: str) -> None:
    """Refuse to go on with a run under other settings, or from other initial weights.

    Args:
        folder: of the run.
        state: its checkpoint.
        settings: of the run that wants to go on.
        origin: digest of the weights that it begins with; empty for those of the seed.

    Raises:
        CheckpointError: they differ; it names each setting that does.
    """
    try:
        before = comparable(train_settings(state["settings"]))  # an older version may not have had all of them
    except SettingError as error:
        rule = f"was begun by gated-nas {state['versions'].get('gated-nas')}: {error.key}={error.value} {error.rule}"
        raise CheckpointError("run", folder, rule, "take another run=NAME, or the version it was begun with") from None
    began = {"initial weights": state["initial"]}
    changed = differences({**before, **began}, {**comparable(settings), "initial weights": origin})
    if changed:
        rule = f"was begun with other settings ({'; '.join(changed)})"
        raise CheckpointError("run", folder, rule, "take another run=NAME, or the settings it was begun with")
