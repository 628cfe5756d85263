"""The suites by name: measuring one, and its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.table import Table

from nas.bench.jac import jac_suite, jac_table
from nas.bench.report import gating_suite, gating_table
from nas.settings import BenchSettings


def measure(settings: BenchSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything of a suite; ``say`` is told what is being measured. The result is plain data."""
    suite = jac_suite if settings.suite == "jac" else gating_suite
    return suite(settings.rounds, settings.threads, say)


def table(result: dict[str, Any]) -> Table:
    """What ``measure`` gave, for a terminal."""
    return jac_table(result) if result["suite"] == "jac" else gating_table(result)
