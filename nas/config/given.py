"""Which settings somebody has set, as opposed to those that have their default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from nas.settings.plain import flat


def given(settings: Any, words: Sequence[str]) -> set[str]:
    """The names of those settings, as in ``train.epochs``, that a word sets, or whose value is not the default.

    The latter come from files, as ``+experiment=mine`` chooses one. A word for a group, such as ``space=chain``, sets
    ``space.name`` and none of the settings in it.

    Args:
        settings: composed.
        words: that they were composed with.
    """
    parsed = OverridesParser.create().parse_overrides(list(words))
    named = [word.key_or_group for word in parsed if not is_dataclass(getattr(settings, word.key_or_group, None))]
    named += [f"{word.key_or_group}.name" for word in parsed]
    now, default = flat(asdict(settings)), flat(_defaults(settings))
    return {
        key
        for key, value in now.items()
        if value != default.get(key) or any(f"{key}.".startswith(f"{word}.") for word in named)
    }


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
