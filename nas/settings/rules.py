"""Rules of settings: a field carries those of its own value, and settings check them as soon as they are made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from nas.errors import SettingError, did_you_mean, require

MISSING: Any = "???"  # OmegaConf's mark for a value that must be given
AUTO = "auto"
"""Whichever is faster here."""
LARGEST = 2**53
"""Of whole numbers: up to here a float has all of them, and there is no use for more."""


@dataclass
class Settings:
    """What all settings have in common: they refuse a value that breaks the rule of its field.

    A rule about several settings stands in a ``__post_init__`` that calls this one.
    """

    _group = ""

    def __init_subclass__(cls, group: str = "") -> None:
        """``group`` is what a command line writes before each of the settings, as in ``train.epochs``."""
        if group:
            cls._group = f"{group}."

    def __post_init__(self) -> None:
        """Check each field.

        Raises:
            SettingError: a value breaks the rule of its field.
        """
        for one in fields(self):
            key, value = f"{self._group}{one.name}", getattr(self, one.name)
            for holds, rule, remedy in one.metadata.get("rules", ()):
                if not holds(value):
                    remedy = remedy(value) if callable(remedy) else remedy or f"write for example {key}={one.default}"
                    raise SettingError(key, value, rule, remedy)


Rule = tuple[Callable[[Any], bool], str, str | Callable[[Any], str]]
"""Whether a value is fine, what must hold, and the remedy, perhaps of the value; an empty one shows the default."""


def _ruled(default: Any, *rules: Rule) -> Any:
    return field(default=default, metadata={"rules": rules})


def _up_to(most: int) -> Rule:
    return (lambda value: not isinstance(value, int) or value <= most), f"must be at most {most:,}", ""


def positive(default: float, most: int = LARGEST) -> Any:
    """A number above 0; a whole one is at most ``most``."""
    return _ruled(default, (lambda value: 0 < value < math.inf, "must be above 0 and finite", ""), _up_to(most))


def positive_or_none() -> Any:
    """A number above 0, or None, which is the default."""
    holds = lambda value: value is None or 0 < value < math.inf  # noqa: E731
    return _ruled(None, (holds, "must be above 0 and finite", "leave it out for what the run does"))


def not_negative(default: float) -> Any:
    """A number that is 0 or more."""
    rule = "must not be negative, and finite"
    return _ruled(default, (lambda value: 0 <= value < math.inf, rule, ""), _up_to(LARGEST))


def fraction(default: float) -> Any:
    """A number in [0, 1)."""
    return _ruled(default, (lambda value: 0 <= value < 1, "must lie in [0, 1)", ""))


def at_least(least: int, default: int, why: str = "") -> Any:
    """A whole number of at least ``least``; ``why`` begins with a colon."""
    return _ruled(default, (lambda value: value >= least, f"must be at least {least}{why}", ""), _up_to(LARGEST))


def at_least_or_none(least: int) -> Any:
    """A whole number of at least ``least``, or None, which is the default."""
    held = lambda value: value is None or value >= least  # noqa: E731
    return _ruled(None, (held, f"must be at least {least}", "leave it out for what the run does"), _up_to(LARGEST))


def choice(*allowed: str) -> Any:
    """One of these names; the first is the default."""
    remedy = lambda value: did_you_mean(value, allowed, "choose one of them")  # noqa: E731
    return _ruled(allowed[0], (allowed.__contains__, f"must be one of {', '.join(allowed)}", remedy))


def switch_or_auto() -> Any:
    """``auto``, the default, or true or false."""
    holds = lambda value: value == AUTO or isinstance(value, bool)  # noqa: E731
    return _ruled(AUTO, (holds, "must be auto, true or false", "auto takes the faster one"))


def thread_count() -> Any:
    """A number of CPU threads, 0 for torch's own, or ``auto``, the default."""
    holds = lambda value: value == AUTO or (type(value) is int and 0 <= value <= 1024)  # noqa: E731
    return _ruled(AUTO, (holds, "must be auto, or a number between 0 and 1024", "0 leaves torch's own choice"))


def seed_number(default: int | None = 0) -> Any:
    """A seed, which is a whole number; or None, if that is the default."""
    remedy = "write for example seed=1"
    not_below: Rule = (lambda value: value is None or value >= 0), "must not be negative", remedy
    not_above: Rule = (lambda value: value is None or value <= LARGEST), f"must be at most {LARGEST:,}", remedy
    return _ruled(default, not_below, not_above)


def run_name() -> Any:
    """What names the folder of a run."""
    rule = "must be a plain name of letters, digits, '.', '_', '+' and '-'"
    remedy = "write for example run=first; hydra.run.dir=PATH chooses any folder"
    return _ruled("unnamed", (lambda run: re.fullmatch(r"(?!\.\.?$)[\w.+-]+", run) is not None, rule, remedy))


def import_name(example: str, *ours: str) -> Any:
    """``package.module:name`` of what a user has written, or one of ``ours``; the first of these is the default."""
    holds = lambda value: value in ours or is_import_name(value)  # noqa: E731
    named = [name for name in ours if name]
    rule = "must read package.module:callable"
    if named:
        rule = f"must be one of {', '.join(named)}, or your own as in {example}"
    remedy = lambda value: did_you_mean(value, named, f"write for example {example}")  # noqa: E731
    return _ruled(ours[0] if ours else MISSING, (holds, rule, remedy))


def is_import_name(text: str) -> bool:
    """Whether ``text`` reads ``package.module:name``, the form of what a user has written."""
    module, _, attribute = text.partition(":")  # without a colon the attribute is empty
    return all(part.isidentifier() for part in (attribute, *module.split(".")))


def one_of(key: str, value: object, *allowed: str) -> None:
    """``value`` is one of ``allowed``."""
    rule, remedy = f"must be one of {', '.join(allowed)}", did_you_mean(value, allowed, "choose one of them")
    require(value in allowed, key, value, rule, remedy)


def one_source(checkpoint: str, search: str) -> None:
    """A checkpoint or a search is given, not both."""
    both, remedy = f"{checkpoint}, {search}", "leave one of them out"
    require(not (checkpoint and search), "checkpoint, search", both, "a search has its own checkpoint", remedy)


def factory_of_checkpoint(factory: str, checkpoint: object) -> None:
    """A factory is given only beside the checkpoint that it belongs to."""
    ok = bool(checkpoint) or not factory
    require(ok, "factory", factory, "is that of a checkpoint", "without one write space.factory=...")


def numbers(key: str, value: Any, example: str) -> list[int]:
    """A whole number above 0 or a list of them, as an ascending list; each of them once."""
    found = [value] if isinstance(value, int) else value
    ok = isinstance(found, list) and bool(found) and all(type(number) is int and number >= 1 for number in found)
    require(ok, key, value, "must be a whole number above 0, or a list of them", f"write for example {example}")
    require(len(set(found)) == len(found), key, value, "names one of them twice", f"write for example {example}")
    return sorted(found)


def names(key: str, value: Any, example: str) -> list[str]:
    """A name or a list of names, as a list; each of them once."""
    found = [] if value is None else [value] if isinstance(value, str) else value
    ok = isinstance(found, list) and all(isinstance(name, str) and name for name in found)
    require(ok, key, value, "must be a name or a list of names", f"write for example {example}")
    require(len(set(found)) == len(found), key, value, "names one of them twice", f"write for example {example}")
    return list(found)
