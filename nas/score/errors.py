"""What a proxy refuses."""

from __future__ import annotations

from nas.errors import NasError


class ScoreError(NasError):
    """A proxy that does not exist, that a network cannot have, or whose value is not a number."""


def cannot(proxy: str, rule: str, remedy: str) -> ScoreError:
    """The error that ``proxy`` cannot be had, for the reason that ``rule`` states."""
    return ScoreError("proxies", proxy, rule, remedy)
