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

SUITES: dict[str, Callable[[int, int, Callable[[str], None]], dict[str, Any]]] = {
    "gating": gating_suite,
    "jac": jac_suite,
    "search": search_suite,
    "dist": dist_suite,
}
TABLES: dict[str, Callable[[dict[str, Any]], Table]] = {
    "gating": gating_table,
    "jac": jac_table,
    "search": search_table,
    "dist": dist_table,
}


def measure(settings: BenchSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything of a suite and return plain data; ``say`` is called with what comes next."""
    return SUITES[settings.suite](settings.rounds, settings.threads, say)


def table(result: dict[str, Any]) -> Table:
    """The result of :func:`measure` as a table for a terminal."""
    return TABLES[result["suite"]](result)
