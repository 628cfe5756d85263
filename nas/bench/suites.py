"""The suites by name: measuring one, and its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.table import Table

from nas.bench.dist import dist_suite, dist_table
from nas.bench.gating_suite import gating_suite, gating_table
from nas.bench.jac import jac_suite, jac_table
from nas.bench.search import search_suite, search_table
from nas.settings import BenchSettings

Measure = Callable[[int, int, Callable[[str], None]], dict[str, Any]]
SUITES: dict[str, tuple[Measure, Callable[[dict[str, Any]], Table]]] = {
    "gating": (gating_suite, gating_table),
    "jac": (jac_suite, jac_table),
    "search": (search_suite, search_table),
    "dist": (dist_suite, dist_table),
}


def measure(settings: BenchSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything of a suite and return plain data; ``say`` is called with what comes next."""
    return SUITES[settings.suite][0](settings.rounds, settings.threads, say)


def table(result: dict[str, Any]) -> Table:
    """The result of :func:`measure` as a table for a terminal."""
    return SUITES[result["suite"]][1](result)
