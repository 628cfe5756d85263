"""Settings of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from nas.errors import require
from nas.settings import rules
from nas.settings.rules import Settings


@dataclass
class BenchSettings(Settings):
    """All settings of ``nas-bench``."""

    suite: str = rules.choice("gating", "fast", "jac", "search", "dist", "find", "threads")
    rounds: int = rules.at_least(3, 100, ": it takes medians")
    """Timed rounds, in each of which every variant of a row takes its turn; for ``suite=find`` replays, 40 at most."""
    macro: str = ""
    """For ``suite=find``: the file with the table of NAS-Bench-Macro; empty leaves it out."""
    threads: int = rules.at_least(1, 1)
    """CPU threads; for ``suite=threads`` those that ``auto`` chooses between, besides 1."""
    device: str = rules.choice("cpu", "cuda")
    """Where steps are timed; a GPU for ``suite=gating`` and ``suite=fast``."""
    seed: int = rules.seed_number()

    def __post_init__(self) -> None:
        super().__post_init__()
        one = self.suite != "dist" or self.threads == 1
        require(one, "threads", self.threads, "must be 1 for suite=dist, in each of its processes", "leave it out")
        here, remedy = self.suite in ("gating", "fast") or self.device == "cpu", "add suite=gating, or leave it out"
        require(here, "device", self.device, "is for suite=gating and suite=fast", remedy)
        rule, remedy = "must be above 1 for suite=threads: there is nothing to choose", "write threads=2"
        require(self.suite != "threads" or self.threads > 1, "threads", self.threads, rule, remedy)
        find = self.suite == "find" or not self.macro
        require(find, "macro", self.macro, "is for suite=find", "add suite=find, or leave it out")
