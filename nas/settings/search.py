"""Settings of a search."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from nas.errors import require
from nas.settings.rules import check_run, check_threads, not_negative, one_of, positive


@dataclass
class SearchSettings:
    """What a search looks for, how it proposes candidates, and how it evaluates them."""

    sampler: str = "tpe"
    trials: int = 0
    """Architectures to evaluate; 0 takes 100, and all of the space with ``sampler=exhaustive``."""
    objectives: list[str] = field(default_factory=lambda: ["loss", "flops"])
    """accuracy, loss, flops, parameters, latency, or a proxy; each has its direction."""
    limit: dict[str, float] = field(default_factory=dict)
    """A bound an objective: the largest value where smaller is better, else the smallest."""
    rank_by: str = ""
    """What makes the best one: an objective, empty for the first, or ``rank_sum`` of those that are no cost."""
    batch: int = 16
    """Architectures proposed at a time: more of them share more prefixes, and are chosen with less knowledge."""
    split: str = "val"
    """Where accuracy and loss are measured: ``val``; on ``test`` nothing is left to tell how good the best one is."""
    recalibrate: bool | None = None
    """Estimate BatchNorm statistics for each subnetwork; None does what the checkpoint's run does."""
    finetune_steps: int = 0
    finetune_lr: float = 0.01
    memory_mb: int = 1024
    """For the activations that candidates share."""
    proxy_images: int = 64
    """Training images in a batch for the proxies."""
    latency_batch: int = 1
    latency_threads: int = 1
    threads: int = 0
    """CPU threads for everything else; 0 leaves torch's own choice."""
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        one_of("search.sampler", self.sampler, "random", "tpe", "nsga2", "exhaustive")
        one_of("search.split", self.split, "val", "test")
        not_negative("search", self, "trials", "finetune_steps")
        check_threads("search.threads", self.threads)
        positive("search", self, "batch", "finetune_lr", "memory_mb", "proxy_images", "latency_batch")
        positive("search", self, "latency_threads")
        rule = "must be at least 2: proxies compare images"
        require(self.proxy_images >= 2, "search.proxy_images", self.proxy_images, rule, "write 64")
        remedy = "write for example search.objectives=[loss,flops]"
        names = self.objectives
        require(len(names) > 0, "search.objectives", names, "must name at least one", remedy)
        require(len({*names}) == len(names), "search.objectives", names, "must not name one twice", remedy)
        one_of("search.rank_by", self.rank_by, "", "rank_sum", *names)
        for name, bound in self.limit.items():
            remedy = f"write for example search.limit.{name}=1e6"
            require(math.isfinite(bound), f"search.limit.{name}", bound, "must be a finite number", remedy)


@dataclass
class SearchRunSettings:
    """All settings of ``nas-search``."""

    checkpoint: str = ""
    """A run of ``nas-train``, or one of its checkpoints; without one only proxies and costs can be objectives."""
    factory: str = ""
    """Of a checkpoint with a custom space, ``package.module:callable``: the one that it names, called if named here."""
    space: Any = None  # typed as optional settings, OmegaConf would assert on space.widths=[8] without a space
    """The checkpoint's own where there is one."""
    data: Any = None
    """The checkpoint's own where there is one, else the digits."""
    search: SearchSettings = field(default_factory=SearchSettings)
    seed: int = 0
    run: str = "unnamed"
    """Names the folder ``outputs/search/<run>``; the same name goes on with the same search, or joins it."""

    def __post_init__(self) -> None:
        ok = bool(self.checkpoint) or not self.factory
        require(ok, "factory", self.factory, "is that of a checkpoint", "without one write space.factory=...")
        check_run(self.run, self.seed)
