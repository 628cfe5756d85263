"""Who may go on with a checkpoint: what makes two trainings the same run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.checkpoint.initial import Initial, initial_of
from nas.errors import CheckpointError, SettingError
from nas.seeds import STREAMS
from nas.settings import TrainRunSettings, train_settings
from nas.settings.plain import differences
from nas.settings.rules import AUTO


def comparable(settings: TrainRunSettings) -> dict[str, Any]:
    """The settings that decide what a training gives, as plain data: not the run's name, nor who is shown it."""
    data = asdict(settings)
    for name in ("run", "architecture", "checkpoint", "search"):
        data.pop(name)
    for name in ("check_every", "timeout_s"):
        data["dist"].pop(name)
    for name in ("progress", "writers"):
        data["track"].pop(name)
    data["train"].pop("extend")  # what it has done is in the checkpoint
    return data


def begin_with(
    folder: Path, state: dict[str, Any] | None, settings: TrainRunSettings, initial: Initial | None = None
) -> Initial:
    """The weights that a run begins with; none for one that goes on, which has its own, but their origin.

    Where ``train.init`` names them, a run that goes on does not look there again: that run may be gone or longer now.

    Args:
        folder: of the run.
        state: its checkpoint; None for a run that begins.
        settings: of the run.
        initial: weights instead of those of the seed.

    Raises:
        CheckpointError: the run was begun with other settings or weights, or ``train.init`` cannot be read.
    """
    assert initial is None or not settings.train.init, "two sources of weights"
    if state is None:
        return initial_of(settings.train.init) if settings.train.init else initial or Initial()
    origin = state["initial"] if settings.train.init else initial.origin if initial else ""
    _check_same_run(folder, state, settings, origin)
    return Initial(origin=origin)


def _check_same_run(folder: Path, state: dict[str, Any], settings: TrainRunSettings, origin: str) -> None:
    """Refuse to go on with a run under other settings, or from other initial weights.

    Whether it may have another length alone is decided where the schedule is known (``nas/train/schedule.py``).

    Raises:
        CheckpointError: they differ, and it names each setting that does; or its version drew other batches.
    """
    wrote, remedy = state["versions"].get("gated-nas"), "take another run=NAME, or the version it was begun with"
    if (drawn := state.get("streams", 1)) != STREAMS:  # the version before the first that says so
        rule = f"was begun by gated-nas {wrote}, which drew other batches (streams {drawn}, this version has {STREAMS})"
        raise CheckpointError("run", folder, rule, remedy)
    try:
        before = comparable(train_settings(state["settings"]))  # an older version may not have had all of them
    except SettingError as error:
        rule = f"was begun by gated-nas {wrote}: {error.key}={error.value} {error.rule}"
        raise CheckpointError("run", folder, rule, remedy) from None
    before["train"] |= dict.fromkeys(state.get("left_open", []), AUTO)  # as it was given, not what was then chosen
    began = {"initial weights": state["initial"]}
    changed = differences({**before, **began}, {**comparable(settings), "initial weights": origin})
    if changed and not (len(changed) == 1 and changed[0].startswith("train.epochs:")):
        rule = f"was begun with other settings ({'; '.join(changed)})"
        raise CheckpointError("run", folder, rule, "take another run=NAME, or the settings it was begun with")
