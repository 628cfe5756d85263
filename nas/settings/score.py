"""Settings of a run of training-free proxies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas.errors import require
from nas.settings import rules
from nas.settings.data import DataSettings, DigitsSettings
from nas.settings.rules import Settings
from nas.settings.space import ChainSettings, SpaceSettings


@dataclass
class ScoreSettings(Settings):
    """All settings of ``nas-score``."""

    space: SpaceSettings = field(default_factory=ChainSettings)
    data: DataSettings = field(default_factory=DigitsSettings)
    proxies: list[str] = field(default_factory=lambda: ["naswot", "jacob_cov", "synflow"])
    rank_sum: list[str] = field(default_factory=list)
    """Proxies whose ranks are added up; none for all that are asked."""
    architectures: int = rules.at_least(1, 200)
    """Drawn from the space by seed, none twice; the whole space if it has no more."""
    only: Any = field(default_factory=list)
    """These architectures, as the space writes them, instead of drawn ones; or the name of a file with one a line."""
    open: Any = 1
    """Branches that a drawn architecture opens in each slot; of a list such as [1,2] the number is drawn too."""
    weights: int = rules.at_least(1, 1)
    """Draws of initial weights, of ``seed``, ``seed + 1`` and so on; a score is their mean."""
    batch_size: int = rules.at_least(2, 32)
    batches: int = rules.at_least(1, 2)
    """Batches of training images; all proxies but ``zico`` see the first alone."""
    threads: int | str = rules.thread_count()
    """CPU threads; ``auto`` takes one or all, whichever is faster; 0 leaves torch's own choice."""
    progress: bool = True
    seed: int = rules.seed_number()
    run: str = rules.run_name()
    """Names the folder ``outputs/score/<run>``; the same name goes on with the same run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.open = rules.numbers("open", self.open, "open=[1,2]")
        names = [self.only] if isinstance(self.only, str) else self.only
        ok = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
        rule, remedy = "must be a list of architectures, or a file with one a line", "write only=[1-0-2] or only=FILE"
        require(ok, "only", self.only, rule, remedy)
        left_out = [name for name in self.rank_sum if name not in self.proxies]
        rule = f"must be among the proxies asked for: {', '.join(self.proxies)}"
        require(not left_out, "rank_sum", ", ".join(left_out), rule, "ask for it in proxies=[...] too")
