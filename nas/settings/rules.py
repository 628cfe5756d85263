"""Rules that several settings share."""

from __future__ import annotations

import math
import re
from typing import Any

from nas.errors import require

MISSING: Any = "???"  # OmegaConf's mark for a value that must be given
LARGEST = 2**53
"""Of whole numbers: up to here a float has all of them, and there is no use for more."""


def positive(prefix: str, settings: object, *names: str) -> None:
    """Every named setting is above 0, and neither infinite nor not a number."""
    for name in names:
        value = getattr(settings, name)
        ok = 0 < value < math.inf
        require(ok, f"{prefix}.{name}", value, "must be above 0 and finite", _example(prefix, settings, name))
        _not_absurd(prefix, settings, name)


def not_negative(prefix: str, settings: object, *names: str) -> None:
    """No named setting is negative, infinite or not a number."""
    for name in names:
        value = getattr(settings, name)
        ok = 0 <= value < math.inf
        require(ok, f"{prefix}.{name}", value, "must not be negative, and finite", _example(prefix, settings, name))
        _not_absurd(prefix, settings, name)


def fraction(prefix: str, settings: object, *names: str) -> None:
    """Every named setting lies in [0, 1)."""
    for name in names:
        value = getattr(settings, name)
        require(0 <= value < 1, f"{prefix}.{name}", value, "must lie in [0, 1)", _example(prefix, settings, name))


def at_most(prefix: str, settings: object, largest: int, *names: str) -> None:
    """No named setting, nor an entry of one that is a list, is above ``largest``."""
    for name in names:
        value = getattr(settings, name)
        ok = all(entry <= largest for entry in (value if isinstance(value, list | tuple) else [value]))
        require(ok, f"{prefix}.{name}", value, f"must be at most {largest:,}", "write a smaller number")


def _not_absurd(prefix: str, settings: object, name: str) -> None:
    value = getattr(settings, name)
    ok = not isinstance(value, int) or value <= LARGEST
    require(ok, f"{prefix}.{name}", value, f"must be at most {LARGEST:,}", _example(prefix, settings, name))


def one_of(key: str, value: object, *allowed: str) -> None:
    """``value`` is one of ``allowed``."""
    require(value in allowed, key, value, f"must be one of {', '.join(allowed)}", "choose one of them")


def check_run(run: str, seed: int = 0) -> None:
    """``run`` can name a folder, and ``seed`` is a seed."""
    require(seed >= 0, "seed", seed, "must not be negative", "write for example seed=1")
    require(seed <= LARGEST, "seed", seed, f"must be at most {LARGEST:,}", "write for example seed=1")
    ok = re.fullmatch(r"[\w.+-]+", run) is not None and run not in (".", "..")
    rule = "must be a plain name of letters, digits, '.', '_', '+' and '-'"
    require(ok, "run", run, rule, "write for example run=first; hydra.run.dir=PATH chooses any folder")


def check_threads(key: str, threads: int) -> None:
    """``threads`` is a number of CPU threads, or 0 for torch's own choice."""
    require(0 <= threads <= 1024, key, threads, "must lie between 0 and 1024", "0 leaves torch's own choice")


def _example(prefix: str, settings: object, name: str) -> str:
    return f"write for example {prefix}.{name}={getattr(type(settings), name)}"  # a dataclass keeps its defaults there
