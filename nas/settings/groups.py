"""The choices of each group by name, and the way back from plain data, as a checkpoint has it, to settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from nas.errors import SettingError
from nas.settings.data import Cifar100Settings, CifarSettings, DigitsSettings, FolderSettings, SyntheticSettings
from nas.settings.gate import FairGateSettings, FixedGateSettings, LearnedGateSettings, UniformGateSettings
from nas.settings.space import CellSettings, ChainSettings, CustomSettings, MacroSettings, TwoBranchSettings
from nas.settings.train import (
    AdamWSettings,
    EvaluateSettings,
    SGDSettings,
    TrackSettings,
    TrainRunSettings,
    TrainSettings,
)

GROUPS: dict[str, dict[str, type]] = {
    "space": {
        "two_branch": TwoBranchSettings,
        "chain": ChainSettings,
        "macro": MacroSettings,
        "cell": CellSettings,
        "custom": CustomSettings,
    },
    "gate": {
        "fixed": FixedGateSettings,
        "uniform": UniformGateSettings,
        "fair": FairGateSettings,
        "learned": LearnedGateSettings,
    },
    "data": {
        "digits": DigitsSettings,
        "cifar10": CifarSettings,
        "cifar100": Cifar100Settings,
        "folder": FolderSettings,
        "synthetic": SyntheticSettings,
    },
    "optimizer": {"sgd": SGDSettings, "adamw": AdamWSettings},
}
"""The dataclass behind each ``<group>=<name>``."""

_PARTS: dict[str, type] = {"train": TrainSettings, "evaluate": EvaluateSettings, "track": TrackSettings}


def train_settings(data: dict[str, Any]) -> TrainRunSettings:
    """The settings of a training run from ``dataclasses.asdict`` of them; what is absent takes its default.

    Raises:
        SettingError: there is no setting of a name, or no choice of it: another version wrote them.
    """
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in GROUPS:
            choice = value.get("name")
            if choice not in GROUPS[key]:
                raise _unknown(key, choice)
            values[key] = _fill(key, GROUPS[key][choice], value)
        elif key in _PARTS:
            values[key] = _fill(key, _PARTS[key], value)
        else:
            values[key] = value
    return _fill("", TrainRunSettings, values)


def _fill(prefix: str, schema: type, data: dict[str, Any]) -> Any:
    known = {field.name for field in fields(schema)}
    for key in data:
        if key not in known:
            raise _unknown(f"{prefix}.{key}".lstrip("."), data[key])
    return schema(**data)


def _unknown(key: str, value: object) -> SettingError:
    return SettingError(key, value, "is unknown to this version", "use the version of gated-nas that wrote it")
