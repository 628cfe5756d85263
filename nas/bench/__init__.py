"""Benchmarks: the same figures for everybody, as ratios, on their own machine. The suites: ``nas.bench.suites``."""

from nas.bench.compare import Ratio, interleave, machine

__all__ = ["Ratio", "interleave", "machine"]
