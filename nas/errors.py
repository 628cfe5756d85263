"""What a user can get wrong, as one line that says how to get it right.

Every error a user can cause is a :class:`NasError`: ``key=value: rule; remedy``. The command line prints that
line and exits with status 1; a library user catches a ``ValueError``. What only this project's own code can
cause is an ``assert``.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 2000
"""Characters of a value or a rule in a message."""


class NasError(ValueError):
    """A mistake that the user can mend, as ``key=value: rule; remedy`` on one line.

    Args:
        key: the setting, file or argument at fault, as the user wrote it.
        value: what it was.
        rule: what must hold.
        remedy: what to do now.
    """

    def __init__(self, key: str, value: object, rule: str, remedy: str) -> None:
        self.key, self.value, self.rule, self.remedy = key, value, rule, remedy
        super().__init__(one_line(f"{_shown(key)}={_shown(value)}: {_shown(rule)}; {remedy}"))

    def __reduce__(self) -> tuple[type, tuple[str, object, str, str]]:
        """Errors travel between processes with their four parts."""
        return type(self), (self.key, self.value, self.rule, self.remedy)


def one_line(text: str) -> str:
    """``text`` without line breaks and without blanks side by side."""
    return " ".join(text.split())


def _shown(part: object) -> str:
    """Whole, or the beginning and the end: a file of somebody else may have a value without end."""
    if isinstance(part, int) and part.bit_length() > LONGEST:  # Python writes no such number
        return f"a number of {part.bit_length()} bits"
    text = str(part)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"


class SettingError(NasError):
    """A setting that is unknown, of the wrong type or out of range."""


class ArchitectureError(NasError):
    """An architecture that does not fit its space, or a gate that is asked for a branch it does not have."""


class SpaceError(NasError):
    """A network that cannot be a supernet: no slot, or branches that disagree in shape."""


class DataError(NasError):
    """A data set that cannot be had, read or used."""


class CheckpointError(NasError):
    """A checkpoint that cannot be written, read or continued."""


class DivergedError(NasError):
    """A run whose loss or weights stopped being finite numbers."""


class RankError(NasError):
    """Processes of one run that do different things, or one of them that is gone."""


class RankLost(RankError):
    """A message to the other processes failed, usually because one of them has ended."""


class ScoreError(NasError):
    """A proxy that does not exist, that a network cannot have, or whose value is not a number."""


class ExportError(NasError):
    """A network that cannot be exported or loaded again, or whose files do not compute what the supernet does."""


class MemoryLimitError(NasError):
    """A run that needs more memory than it may have."""


class NasWarning(UserWarning):
    """Something that works but is probably not what was meant."""


def did_you_mean(name: object, known: Iterable[str], otherwise: str = "") -> str:
    """The remedy for a name that is not among the known ones.

    Args:
        name: what the user wrote.
        known: what there is.
        otherwise: the remedy where none is spelled alike; empty for a list of the known ones.
    """
    from difflib import get_close_matches  # an error alone needs it

    known = list(known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise or f"choose one of {', '.join(known)}"


def require(ok: bool, key: str, value: object, rule: str, remedy: str) -> None:
    """Raise :class:`SettingError` unless ``ok``."""
    if not ok:
        raise SettingError(key, value, rule, remedy)
