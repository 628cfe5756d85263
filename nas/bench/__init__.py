"""Benchmarks: the same figures for everybody, as ratios, on their own machine."""

from nas.bench.compare import Ratio, interleave, machine
from nas.bench.report import gating_suite, table

__all__ = ["Ratio", "gating_suite", "interleave", "machine", "table"]
