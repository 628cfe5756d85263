"""Rules that several settings share."""

from __future__ import annotations

from typing import Any

from nas.errors import require

MISSING: Any = "???"  # OmegaConf's mark for a value that must be given


def positive(prefix: str, settings: object, *names: str) -> None:
    """Every named setting is above 0."""
    for name in names:
        value = getattr(settings, name)
        require(value > 0, f"{prefix}.{name}", value, "must be above 0", f"write for example {prefix}.{name}=1")


def not_negative(prefix: str, settings: object, *names: str) -> None:
    """No named setting is negative."""
    for name in names:
        value = getattr(settings, name)
        require(value >= 0, f"{prefix}.{name}", value, "must not be negative", "0 switches it off")


def fraction(prefix: str, settings: object, *names: str) -> None:
    """Every named setting lies in [0, 1)."""
    for name in names:
        value = getattr(settings, name)
        rule = "must lie in [0, 1)"
        require(0 <= value < 1, f"{prefix}.{name}", value, rule, f"write for example {prefix}.{name}=0.1")


def one_of(key: str, value: object, *allowed: str) -> None:
    """``value`` is one of ``allowed``."""
    require(value in allowed, key, value, f"must be one of {', '.join(allowed)}", "choose one of them")
