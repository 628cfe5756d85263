"""The suites by name: measuring one, and its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.table import Table

from nas.bench.dist import dist_suite, dist_table
from nas.bench.fast import fast_suite, fast_table
from nas.bench.find import find_suite, find_table
from nas.bench.gating_suite import gating_suite, gating_table
from nas.bench.jac.suite import jac_suite, jac_table
from nas.bench.search import search_suite, search_table
from nas.bench.threads import threads_suite, threads_table
from nas.settings import BenchSettings

Say = Callable[[str], None]
Measure = Callable[[BenchSettings, Say], dict[str, Any]]


def _timed(suite: Callable[[int, int, Say], dict[str, Any]]) -> Measure:
    return lambda settings, say: suite(settings.rounds, settings.threads, say)


def _find(settings: BenchSettings, say: Say) -> dict[str, Any]:
    return find_suite(settings.rounds, settings.macro, say)


SUITES: dict[str, tuple[Measure, Callable[[dict[str, Any]], Table]]] = {
    "gating": (gating_suite, gating_table),
    "fast": (fast_suite, fast_table),
    "jac": (_timed(jac_suite), jac_table),
    "search": (_timed(search_suite), search_table),
    "dist": (_timed(dist_suite), dist_table),
    "find": (_find, find_table),
    "threads": (_timed(threads_suite), threads_table),
}


def measure(settings: BenchSettings, say: Say) -> dict[str, Any]:
    """Measure everything of a suite and return plain data; ``say`` is called with what comes next."""
    return SUITES[settings.suite][0](settings, say)


def table(result: dict[str, Any]) -> Table:
    """The result of :func:`measure` as a table for a terminal."""
    return SUITES[result["suite"]][1](result)
