"""Settings of a ranking."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas.errors import require
from nas.settings import rules
from nas.settings.rules import Settings

SUPERNET = ("loss", "accuracy", "loss_running", "accuracy_running", "loss_tuned", "accuracy_tuned")
"""Predictors that a trained supernet gives: with BatchNorm statistics estimated for each candidate; with the running
ones as training left them; and after fine-tuning each candidate for some steps."""
TRIVIAL = ("parameters", "flops")
"""Predictors that need no images and no weights."""
SURROGATE = "surrogate"
"""The predictor that learns from trainings of the table."""
FEATURES = ("choices", "pairs", "cost", "supernet")
"""What a surrogate may see beside proxies: which choice each slot has, how two of what it sees go together, parameters
and FLOPs, and the supernet's loss."""
FINETUNE_STEPS = 40
"""Of each candidate, for ``loss_tuned`` and ``accuracy_tuned``."""


@dataclass
class RankSettings(Settings, group="rank"):
    """How predictions are made."""

    sum: Any = None
    """Predictors whose ranks are added up; None takes loss and parameters where there is a loss."""
    trainings: int = rules.at_least(4, 32, ": a regression learns from them")
    """Trainings of the table that the ``surrogate`` learns from, one each of as many architectures."""
    features: Any = None
    """What the ``surrogate`` sees: choices, pairs, cost, supernet (its loss), or a proxy of this run; None takes the
    first three, and supernet where there is a checkpoint."""
    proxy_images: int = rules.at_least(2, 64, ": proxies compare images")
    """Training images in a batch for the proxies."""
    images: int | None = rules.at_least_or_none(0)
    """Held-out images that the supernet ranks on, 0 for all of the split; None does what the checkpoint's run does."""
    recalibrate_images: int | None = rules.at_least_or_none(1)
    """Training images for BatchNorm statistics; None does what the checkpoint's run does."""
    finetune_steps: int = rules.positive(FINETUNE_STEPS)
    """Of each candidate, for ``loss_tuned`` and ``accuracy_tuned``."""
    finetune_lr: float = rules.positive(0.01)
    memory_mb: int = rules.positive(1024)
    """For the activations that candidates share."""
    threads: int | str = rules.thread_count()
    """CPU threads; ``auto`` takes one or all, whichever is faster; 0 leaves torch's own choice."""
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sum is not None:
            self.sum = rules.names("rank.sum", self.sum, "rank.sum=[loss,parameters]")
        if self.features is not None:
            self.features = rules.names("rank.features", self.features, "rank.features=[choices,pairs,cost]")
            rule, remedy = "must name more than pairs of other features", "write rank.features=[choices,pairs,cost]"
            require(bool({*self.features} - {"pairs"}), "rank.features", self.features, rule, remedy)


@dataclass
class RankRunSettings(Settings):
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
    """What is asked of the supernet, and ``surrogate``: a regression on some of the table."""
    proxies: list[str] = field(default_factory=list)
    """Training-free proxies of nas-score, on initial weights."""
    architectures: int = rules.not_negative(0)
    """Of the table, drawn by ``seed``; 0 takes all."""
    weights: int = rules.at_least(1, 1)
    """Draws of initial weights for the proxies."""
    split: str = rules.choice("val", "test")
    """Held-out images that the supernet is evaluated on."""
    seed: int = rules.seed_number()
    run: str = rules.run_name()
    """Names the folder ``outputs/rank/<run>``; the same name goes on with the same run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.checkpoint = rules.names("checkpoint", self.checkpoint, "checkpoint=outputs/train/first")
        rules.factory_of_checkpoint(self.factory, self.checkpoint)
        rules.names("proxies", self.proxies, "proxies=[naswot]")
        rules.names("predictors", self.predictors, "predictors=[loss,accuracy]")
        for name in self.predictors:
            rules.one_of("predictors", name, *SUPERNET, SURROGATE)
        rule = "must be 0 for all, or at least 2: one alone has no order"
        require(self.architectures != 1, "architectures", self.architectures, rule, "write architectures=200")
        for name in ("space", "data"):
            unused = not self.checkpoint or getattr(self, name) is None
            require(unused, name, "given", "a checkpoint has its own", f"leave {name} out, or the checkpoint")
        for name in self.rank.sum or ():
            rules.one_of("rank.sum", name, *self.known)
        for name in self.rank.features or ():
            rules.one_of("rank.features", name, *FEATURES[: 4 if self.checkpoint else 3], *self._proxies)

    @property
    def asked(self) -> list[str]:
        """The predictors that a supernet gives; none without a checkpoint."""
        return [name for name in self.predictors if self.checkpoint and name != SURROGATE]

    @property
    def known(self) -> tuple[str, ...]:
        """All predictors but the rank-sum and the surrogate, which learns from the truth."""
        return (*self.asked, *self._proxies, *TRIVIAL)

    @property
    def _proxies(self) -> list[str]:
        return [name for name in self.proxies if name not in TRIVIAL]

    @property
    def features(self) -> list[str]:
        """What the surrogate sees; nothing where it is not asked for."""
        if SURROGATE not in self.predictors:
            return []
        if self.rank.features is None:
            return [*FEATURES[: 4 if self.checkpoint else 3]]
        return list(self.rank.features)

    @property
    def summed(self) -> list[str]:
        """The members of the rank-sum; empty for none."""
        if self.rank.sum is None:
            return ["loss", "parameters"] if "loss" in self.known else []
        return list(self.rank.sum)
