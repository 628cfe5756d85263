"""Which settings are not at their defaults."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from nas.settings.plain import flat


def changed(settings: Any) -> set[str]:
    """The names of settings, as in ``train.epochs``, whose value is not the default.

    A group has the defaults of its choice, and that is ``gate.name``, for example.
    """
    default = flat(_defaults(settings))
    return {key for key, value in flat(asdict(settings)).items() if value != default.get(key)}


def _defaults(settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(settings):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = getattr(settings, field.name)
        found[field.name] = default
        if is_dataclass(value):
            found[field.name] = _defaults(value)
            if hasattr(default, "name"):
                found[field.name]["name"] = default.name
    return found
