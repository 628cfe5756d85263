"""The choices of each group by name, and the way back from plain data, as a checkpoint has it, to settings."""

from __future__ import annotations

import reprlib
from typing import Any, get_origin, get_type_hints

from nas.errors import SettingError
from nas.settings.data import Cifar100Settings, CifarSettings, DigitsSettings, FolderSettings, SyntheticSettings
from nas.settings.gate import FairGateSettings, FixedGateSettings, LearnedGateSettings, UniformGateSettings
from nas.settings.plain import fits
from nas.settings.space import CellSettings, ChainSettings, CustomSettings, MacroSettings, TwoBranchSettings
from nas.settings.train import (
    AdamWSettings,
    DistSettings,
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

_PARTS: dict[str, type] = {
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "track": TrackSettings,
    "dist": DistSettings,
}


def train_settings(data: dict[str, Any]) -> TrainRunSettings:
    """The settings of a training run from ``dataclasses.asdict`` of them; what is absent takes its default.

    Raises:
        SettingError: there is no setting of a name, or no choice of it: another version wrote them; or one is of
            another type than it must be.
    """
    _must_fit("settings", data, dict)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in GROUPS or key in _PARTS:
            _must_fit(key, value, dict)
        if key in GROUPS:
            choice = value.get("name")
            if not isinstance(choice, str) or choice not in GROUPS[key]:
                raise _unknown(key, choice)
            values[key] = _fill(key, GROUPS[key][choice], value)
        elif key in _PARTS:
            values[key] = _fill(key, _PARTS[key], value)
        else:
            values[key] = value
    return _fill("", TrainRunSettings, values)


def _fill(prefix: str, schema: type, data: dict[str, Any]) -> Any:
    kinds = get_type_hints(schema)
    for key, value in data.items():
        name = f"{prefix}.{key}".lstrip(".")
        if key not in kinds:
            raise _unknown(name, value)
        _must_fit(name, value, kinds[key])
    return schema(**data)


def _must_fit(key: str, value: object, kind: Any) -> None:
    if not fits(value, kind):
        rule = f"must be {getattr(kind, '__name__', kind) if get_origin(kind) is None else kind}"
        raise SettingError(key, _short(value), rule, "use the file as gated-nas wrote it, or mend it")


def _unknown(key: str, value: object) -> SettingError:
    return SettingError(key, _short(value), "is unknown to this version", "use the version of gated-nas that wrote it")


def _short(value: object) -> str:
    return value if isinstance(value, str) else reprlib.repr(value)  # a foreign file may have lists without end
