"""Settings of a ranking."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas.errors import require
from nas.settings.rules import check_run, check_threads, one_of, positive

SUPERNET = ("loss", "accuracy", "loss_running", "accuracy_running", "loss_tuned", "accuracy_tuned")
"""Predictors that a trained supernet gives: with BatchNorm statistics estimated for each candidate; with the running
ones as training left them; and after fine-tuning each candidate for some steps."""
TRIVIAL = ("parameters", "flops")
"""Predictors that need no images and no weights."""


@dataclass
class RankSettings:
    """How predictions are made."""

    sum: Any = None
    """Predictors whose ranks are added up; None takes loss and parameters where there is a loss."""
    proxy_images: int = 64
    """Training images in a batch for the proxies."""
    finetune_steps: int = 40
    """Of each candidate, for ``loss_tuned`` and ``accuracy_tuned``."""
    finetune_lr: float = 0.01
    memory_mb: int = 1024
    """For the activations that candidates share."""
    threads: int = 0
    """CPU threads; 0 leaves torch's own choice."""
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        if self.sum is not None:
            self.sum = _names("rank.sum", self.sum, "rank.sum=[loss,parameters]")
        positive("rank", self, "proxy_images", "finetune_steps", "finetune_lr", "memory_mb")
        check_threads("rank.threads", self.threads)
        ok = self.proxy_images >= 2
        require(ok, "rank.proxy_images", self.proxy_images, "must be at least 2: proxies compare images", "write 64")


@dataclass
class RankRunSettings:
    """All settings of ``nas-rank``."""

    space: Any = None  # typed as optional settings, OmegaConf would assert on space.widths=[8] without a space
    """A choice of the group; None takes it from the checkpoint, or else from the head of the table."""
    data: Any = None
    """A choice of the group, for proxies without a checkpoint; None takes it from the checkpoint."""
    rank: RankSettings = field(default_factory=RankSettings)
    checkpoint: Any = None
    """The folder of a run or a checkpoint in it; several of one space, as a list, are draws of one predictor."""
    factory: str = ""
    """Of a checkpoint with a custom space, ``package.module:callable``: the one that it names, called if named here."""
    truth: str = "own"
    """``own``, or a JSON or CSV file."""
    predictors: list[str] = field(default_factory=lambda: ["loss", "accuracy", "loss_running", "accuracy_running"])
    """What is asked of the supernet."""
    proxies: list[str] = field(default_factory=list)
    """Training-free proxies of nas-score, on initial weights."""
    architectures: int = 0
    """Of the table, drawn by ``seed``; 0 takes all."""
    weights: int = 1
    """Draws of initial weights for the proxies."""
    split: str = "val"
    """Held-out images that the supernet is evaluated on."""
    seed: int = 0
    run: str = "unnamed"
    """Names the folder ``outputs/rank/<run>``; the same name goes on with the same run."""

    def __post_init__(self) -> None:
        self.checkpoint = _names("checkpoint", self.checkpoint, "checkpoint=outputs/train/first")
        ok = bool(self.checkpoint) or not self.factory
        require(ok, "factory", self.factory, "is that of a checkpoint", "without one write space.factory=...")
        _names("proxies", self.proxies, "proxies=[naswot]")
        _names("predictors", self.predictors, "predictors=[loss,accuracy]")
        for name in self.predictors:
            one_of("predictors", name, *SUPERNET)
        one_of("split", self.split, "val", "test")
        require(self.weights >= 1, "weights", self.weights, "must be at least 1", "write weights=3")
        rule = "must be 0 for all, or at least 2: one alone has no order"
        ok = self.architectures == 0 or self.architectures >= 2
        require(ok, "architectures", self.architectures, rule, "write architectures=200")
        check_run(self.run, self.seed)
        for name in ("space", "data"):
            unused = not self.checkpoint or getattr(self, name) is None
            require(unused, name, "given", "a checkpoint has its own", f"leave {name} out, or the checkpoint")
        for name in self.rank.sum or ():
            one_of("rank.sum", name, *self.known)

    @property
    def known(self) -> tuple[str, ...]:
        """The predictors that there are, but for the rank-sum."""
        asked = self.predictors if self.checkpoint else ()
        return (*asked, *(name for name in self.proxies if name not in TRIVIAL), *TRIVIAL)

    @property
    def summed(self) -> list[str]:
        """The members of the rank-sum; empty for none."""
        if self.rank.sum is None:
            return ["loss", "parameters"] if "loss" in self.known else []
        return list(self.rank.sum)


def _names(key: str, value: Any, example: str) -> list[str]:
    names = [] if value is None else [value] if isinstance(value, str) else value
    ok = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    require(ok, key, value, "must be a name or a list of names", f"write for example {example}")
    require(len(set(names)) == len(names), key, value, "names one of them twice", f"write for example {example}")
    return list(names)
