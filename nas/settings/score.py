"""Settings of a run of training-free proxies."""

from __future__ import annotations

from dataclasses import dataclass, field

from nas.errors import require
from nas.settings.data import DataSettings, DigitsSettings
from nas.settings.rules import check_run, check_threads
from nas.settings.space import ChainSettings, SpaceSettings


@dataclass
class ScoreSettings:
    """All settings of ``nas-score``."""

    space: SpaceSettings = field(default_factory=ChainSettings)
    data: DataSettings = field(default_factory=DigitsSettings)
    proxies: list[str] = field(default_factory=lambda: ["naswot", "jacob_cov", "synflow"])
    rank_sum: list[str] = field(default_factory=list)
    """Proxies whose ranks are added up; none for all that are asked."""
    architectures: int = 200
    """Drawn from the space by seed, none twice; the whole space if it has no more."""
    only: list[str] = field(default_factory=list)
    """These architectures, as the space writes them, instead of drawn ones."""
    weights: int = 1
    """Draws of initial weights, of ``seed``, ``seed + 1`` and so on; a score is their mean."""
    batch_size: int = 32
    batches: int = 2
    """Batches of training images; all proxies but ``zico`` see the first alone."""
    threads: int = 0
    """CPU threads; 0 leaves torch's own choice."""
    progress: bool = True
    seed: int = 0
    run: str = "unnamed"
    """Names the folder ``outputs/score/<run>``; the same name goes on with the same run."""

    def __post_init__(self) -> None:
        for name, least in (("architectures", 1), ("weights", 1), ("batch_size", 2), ("batches", 1)):
            value, remedy = getattr(self, name), f"write for example {name}={getattr(type(self), name)}"
            require(value >= least, name, value, f"must be at least {least}", remedy)
        check_threads("threads", self.threads)
        left_out = [name for name in self.rank_sum if name not in self.proxies]
        rule = f"must be among the proxies asked for: {', '.join(self.proxies)}"
        require(not left_out, "rank_sum", ", ".join(left_out), rule, "ask for it in proxies=[...] too")
        check_run(self.run, self.seed)
