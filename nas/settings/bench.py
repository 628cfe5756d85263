"""Settings of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from nas.errors import require
from nas.settings.rules import one_of


@dataclass
class BenchSettings:
    """All settings of ``nas-bench``."""

    suite: str = "gating"
    rounds: int = 100
    """Timed rounds; in each, every variant of a row takes its turn."""
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("suite", self.suite, "gating", "jac", "search", "dist")
        require(self.rounds >= 3, "rounds", self.rounds, "must be at least 3: it takes medians", "use rounds=100")
        one = self.suite != "dist" or self.threads == 1
        require(one, "threads", self.threads, "must be 1 for suite=dist, in each of its processes", "leave it out")
        require(self.threads >= 1, "threads", self.threads, "must be at least 1", "use threads=1")
