"""The choices of each group by name, and the way back from plain data, as a checkpoint has it, to settings."""

from __future__ import annotations

import reprlib
from dataclasses import is_dataclass
from typing import Any, get_origin, get_type_hints

from nas.errors import SettingError
from nas.settings.data import (
    ArraysSettings,
    Cifar100Settings,
    CifarSettings,
    DigitsSettings,
    FolderSettings,
    SyntheticSettings,
    TensorSettings,
)
from nas.settings.gate import FairGateSettings, FixedGateSettings, LearnedGateSettings, UniformGateSettings
from nas.settings.plain import fits
from nas.settings.space import (
    CellSettings,
    ChainSettings,
    CustomSettings,
    MacroSettings,
    ModelSettings,
    ResidualSettings,
    TwoBranchSettings,
)
from nas.settings.train import AdamWSettings, CustomOptimizerSettings, SGDSettings, TrainRunSettings


def _by_name(*schemas: Any) -> dict[str, type]:
    return {schema.name: schema for schema in schemas}


GROUPS: dict[str, dict[str, type]] = {
    "space": _by_name(
        TwoBranchSettings,
        ChainSettings,
        ResidualSettings,
        MacroSettings,
        CellSettings,
        ModelSettings,
        CustomSettings,
    ),
    "gate": _by_name(FixedGateSettings, UniformGateSettings, FairGateSettings, LearnedGateSettings),
    "data": _by_name(
        DigitsSettings, CifarSettings, Cifar100Settings, FolderSettings, ArraysSettings, SyntheticSettings
    ),
    "optimizer": _by_name(SGDSettings, AdamWSettings, CustomOptimizerSettings),
}
"""The dataclass behind each ``<group>=<name>``."""

_IN_PYTHON: dict[str, dict[str, type]] = {"data": _by_name(TensorSettings)}
"""What a checkpoint may name besides."""
_NOT_OF_A_FILE = ("tensorboard", "writers")
"""Of ``track``: an older version's switch, and where curves go, which is for the user of now to say: a file of somebody
else must not name code that is then called."""


def train_settings(data: dict[str, Any]) -> TrainRunSettings:
    """The settings of a training run from ``dataclasses.asdict`` of them; what is absent takes its default.

    Raises:
        SettingError: there is no setting of a name, or no choice of it: another version wrote them; or one is of
            another type than it must be.
    """
    _must_fit("settings", data, dict)
    if isinstance(track := data.get("track"), dict):
        data = data | {"track": {key: value for key, value in track.items() if key not in _NOT_OF_A_FILE}}
    values: dict[str, Any] = {}
    kinds = get_type_hints(TrainRunSettings)
    for key, value in data.items():
        kind = kinds.get(key)
        if is_dataclass(kind):
            _must_fit(key, value, dict)
        if key in GROUPS:
            name = value.get("name")
            known = GROUPS[key] | _IN_PYTHON.get(key, {})
            if not isinstance(name, str) or name not in known:
                raise _unknown(key, name)
            kind = known[name]
        values[key] = _fill(key, kind, value) if is_dataclass(kind) else value
    return _fill("", TrainRunSettings, values)


def _fill(prefix: str, schema: Any, data: dict[str, Any]) -> Any:
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
