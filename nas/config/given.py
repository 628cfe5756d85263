"""Which settings somebody has set, as opposed to those that have their default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from nas.settings.changed import changed
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
    now = flat(asdict(settings))
    return changed(settings) | {key for key in now if any(f"{key}.".startswith(f"{word}.") for word in named)}
