"""What a caller can get wrong, as one line that says how to get it right; this room imports no errors but its own."""

from __future__ import annotations


class JacobianError(ValueError):
    """A call that cannot be answered, as ``key=value: rule; remedy`` on one line: what, what must hold, what to do."""

    def __init__(self, key: str, value: object, rule: str, remedy: str) -> None:
        self.key, self.value, self.rule, self.remedy = key, value, rule, remedy
        super().__init__(" ".join(f"{key}={value}: {rule}; {remedy}".split()))


class NoRuleError(JacobianError):
    """An operation whose local derivative the layerwise mode does not know."""


class BudgetError(JacobianError):
    """A chunk budget in bytes that does not hold the one direction, of ``needed`` bytes, that has to be under way."""

    def __init__(self, chunk_bytes: int, needed: int) -> None:
        self.needed = needed
        rule = f"is too small: one direction of one sample takes {needed:,} bytes"
        super().__init__("chunk_bytes", f"{chunk_bytes:,}", rule, f"use chunk_bytes={needed} or more")
