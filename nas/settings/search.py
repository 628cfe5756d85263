"""Settings of a search."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nas.errors import require
from nas.settings import rules
from nas.settings.rank import TRIVIAL
from nas.settings.rules import Settings

DERIVED = ("rank_sum", "surrogate")
"""Objectives whose values depend on all finished trials."""
RACED = ("loss", "accuracy", "loss_running", "accuracy_running")
"""What candidates can race by: fine-tuning takes longer than a look at a few images could save."""
DEFAULT_TRAININGS = 24


@dataclass
class TrainingsSettings(Settings, group="search.train"):
    """How a candidate is trained where ``trained`` is an objective: by the rules of ``nas-train``."""

    epochs: int = rules.positive(8)
    inherit: bool = False
    """Begin with the supernet's weights; false begins with those of the training's seed."""
    lr: float | None = rules.positive_or_none()
    """Peak learning rate; None takes that of the checkpoint's run, or the default of ``nas-train``."""
    batch_size: int | None = rules.at_least_or_none(2)
    """Images a step; None likewise."""
    trusted: list[str] = field(default_factory=list)
    """The ``package.module:name`` of the checkpoint's run: of its optimizer, schedule, loss and augmentation. They are
    called if they are named here too."""


@dataclass
class VerdictSettings(Settings, group="search.verdict"):
    """What the winner is compared with at the end, where ``trained`` is an objective."""

    networks: int = rules.at_least(8, 8, ": fewer say too little")
    """Random networks of the winner's cost, each trained once beside the winner."""


@dataclass
class SearchSettings(Settings, group="search"):
    """What a search looks for, how it proposes candidates, and how it evaluates them."""

    sampler: str = rules.choice("tpe", "random", "nsga2", "exhaustive", "surrogate")
    trials: int = rules.not_negative(0)
    """Architectures to evaluate; 0 takes 100, and all of the space with ``sampler=exhaustive``."""
    objectives: list[str] = field(default_factory=lambda: ["loss", "flops"])
    """trained, surrogate, loss, accuracy, either _running or _tuned as in nas-rank, rank_sum, flops, parameters,
    latency, or a proxy; each has its direction."""
    sum: Any = None
    """Predictors whose ranks ``rank_sum`` adds up, more parameters counting as better; None takes loss and parameters,
    and without a checkpoint the objectives that are no cost."""
    trainings: int = rules.not_negative(0)
    """With ``trained``: trainings to choose the winner by, those of the finals among them; 0 takes 24."""
    finals: int = rules.not_negative(4)
    """With ``trained``: the best so many are trained once more, on another seed, out of the same trainings."""
    features: Any = None
    """With ``sampler=surrogate``, what predicts: choices, pairs (of choices, and of whatever else is given), cost,
    supernet (its loss), or a proxy; None takes the first three, and supernet where there is a checkpoint."""
    rungs: list[int] | None = None
    """With ``trained``: epochs after which the better half of the trainings goes on; None takes 1, 2, 4 and so on, and
    an empty list trains all to the end."""
    train: TrainingsSettings = field(default_factory=TrainingsSettings)
    verdict: VerdictSettings = field(default_factory=VerdictSettings)
    limit: dict[str, float] = field(default_factory=dict)
    """A bound an objective: the largest value where smaller is better, else the smallest."""
    rank_by: str = ""
    """What makes the best one: an objective, empty for the first, or ``rank_sum``."""
    batch: int = rules.not_negative(0)
    """Architectures proposed at a time; 0 takes 16, and 4 with ``trained``.

    More of them share more prefixes, and are chosen with less knowledge.
    """
    split: str = rules.choice("val", "test")
    """Where accuracy and loss are measured: ``val``; on ``test`` nothing is left to tell how good the best one is."""
    recalibrate: bool | None = None
    """Estimate BatchNorm statistics for each subnetwork; None does what the checkpoint's run does."""
    images: int | None = rules.at_least_or_none(0)
    """Held-out images that rank candidates, 0 for all of the split; None does what the checkpoint's run does."""
    race: bool = False
    """Look at a few images first, and evaluate in full what is not certainly behind the best tenth."""
    recalibrate_images: int | None = rules.at_least_or_none(1)
    """Training images for BatchNorm statistics; None does what the checkpoint's run does."""
    finetune_steps: int = rules.not_negative(0)
    """Of each candidate, for ``loss_tuned`` and ``accuracy_tuned``; 0 takes 40."""
    finetune_lr: float = rules.positive(0.01)
    memory_mb: int = rules.positive(1024)
    """For the activations that candidates share."""
    proxy_images: int = rules.at_least(2, 64, ": proxies compare images")
    """Training images in a batch for the proxies."""
    latency_batch: int = rules.positive(1)
    latency_threads: int = rules.positive(1)
    threads: int | str = rules.thread_count()
    """CPU threads for everything else; ``auto`` takes one or all, whichever is faster; 0 leaves torch's own choice."""
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "write for example search.objectives=[loss,flops]"
        names = self.objectives
        require(len(names) > 0, "search.objectives", names, "must name at least one", remedy)
        require(len({*names}) == len(names), "search.objectives", names, "must not name one twice", remedy)
        remedy = "add trained to search.objectives, or leave it out"
        ok = not self.trainings or "trained" in names
        require(ok, "search.trainings", self.trainings, "is for the objective trained", remedy)
        ok = not self.trials or "trained" not in names
        rule, remedy = "is not for the objective trained", "write search.trainings=24"
        require(ok, "search.trials", self.trials, rule, remedy)
        remedy = "add trained to search.objectives, or leave it out"
        require(
            not self.rungs or "trained" in names, "search.rungs", self.rungs, "is for the objective trained", remedy
        )
        rules.one_of("search.rank_by", self.rank_by, "", "rank_sum", *names)
        if "trained" in names:
            self._check_trainings()
        for name, bound in self.limit.items():
            remedy = f"write for example search.limit.{name}=1e6"
            require(math.isfinite(bound), f"search.limit.{name}", bound, "must be a finite number", remedy)
            share = name == "trained" or name.partition("_")[0] == "accuracy"
            rule, remedy = "must be a share, from 0 to 1", f"write for example search.limit.{name}=0.5 for 50 %"
            require(not share or 0 <= bound <= 1, f"search.limit.{name}", bound, rule, remedy)
            rule, remedy = "depends on the other trials, so it is no limit", "limit what it is made of"
            require(name not in DERIVED, f"search.limit.{name}", bound, rule, remedy)
        self._check_predictors()
        if self.features is not None:
            example = "search.features=[choices,cost,naswot]"
            self.features = rules.names("search.features", self.features, example)
            rule = "must name more than pairs, which are pairs of other features"
            require(bool({*self.features} - {"pairs"}), "search.features", self.features, rule, f"write {example}")
            rule, remedy = "is for the surrogate", "add search.sampler=surrogate, or leave it out"
            require(self.sampler == "surrogate", "search.features", self.features, rule, remedy)

    def _check_predictors(self) -> None:
        names = self.objectives
        remedy = "write search.objectives=[trained,surrogate,flops]"
        rule = "is a regression on the trainings of the same search"
        require("surrogate" not in names or "trained" in names, "search.objectives", names, rule, remedy)
        if self.sum is not None:
            example = "search.sum=[loss,parameters]"
            self.sum = rules.names("search.sum", self.sum, example)
            require(bool(self.sum), "search.sum", self.sum, "must name at least one", f"write for example {example}")
            rule, remedy = "is no objective of this search", "add trained to search.objectives, or leave it out"
            require("trained" not in self.sum or "trained" in names, "search.sum", self.sum, rule, remedy)
        tuned = any(name.endswith("_tuned") for name in (*names, *self.limit, *(self.sum or ())))
        rule, remedy = "is for loss_tuned and accuracy_tuned", "write search.objectives=[loss_tuned,flops]"
        require(tuned or not self.finetune_steps, "search.finetune_steps", self.finetune_steps, rule, remedy)
        raced = [name for name in names if name in RACED]
        alone = len(raced) == 1 and {*names, *self.limit} <= {*raced, *TRIVIAL} and not {*raced} & {*self.limit}
        rule = f"is by one of {', '.join(RACED)}; beside it there may be flops and parameters, and limits on these"
        remedy = "write search.objectives=[loss,flops], or leave it out"
        require(not self.race or (alone and self.rank_by != "rank_sum"), "search.race", self.race, rule, remedy)

    def summed(self, supernet: bool) -> list[str]:
        """The members of the rank-sum; none where it is not asked for.

        Args:
            supernet: there is a trained one.

        Raises:
            SettingError: it is asked for, and nothing is there to add up.
        """
        if "rank_sum" not in (*self.objectives, self.rank_by):
            return []
        if self.sum is not None:
            return list(self.sum)
        found = [name for name in self.objectives if name not in (*DERIVED, *TRIVIAL, "latency")]
        found = ["loss", "parameters"] if supernet else found
        rule, remedy = "must be given: without a checkpoint there is no loss", "write search.sum=[naswot,parameters]"
        require(bool(found), "search.sum", self.sum, rule, remedy)
        return found

    def _check_trainings(self) -> None:
        trainings, least = self.wanted_trainings, max(1, 2 * self.finals)
        rule = f"leaves fewer candidates than search.finals={self.finals}, whose trainings are among them"
        remedy = f"allow at least {least}, or lower search.finals"
        require(trainings >= least, "search.trainings", trainings, rule, remedy)
        rungs, epochs = self.rungs or [], self.train.epochs
        rule, remedy = "must be epochs from 1 on that increase", "write for example search.rungs=[1,2,4]"
        ok = all(before < rung for before, rung in pairwise((0, *rungs)))
        require(ok, "search.rungs", rungs, rule, remedy)
        rule = f"passes search.train.epochs={epochs}"
        require(
            not rungs or rungs[-1] <= epochs, "search.rungs", rungs, rule, "train longer, or leave the last one out"
        )
        rule = "the best one of trained networks is the winner of the finals"
        require(self.rank_by in ("", "trained"), "search.rank_by", self.rank_by, rule, "leave it out")

    @property
    def wanted_trainings(self) -> int:
        """Trainings of candidates and finals, where ``trained`` is an objective."""
        return self.trainings or DEFAULT_TRAININGS

    @property
    def halved_after(self) -> list[int]:
        """The rungs of trainings before their last epoch."""
        doubled = [2**k for k in range(self.train.epochs.bit_length())]
        rungs = doubled if self.rungs is None else self.rungs
        return [rung for rung in rungs if rung < self.train.epochs]

    @property
    def proposed_at_once(self) -> int:
        """Architectures proposed at a time."""
        return self.batch or (4 if "trained" in self.objectives else 16)


@dataclass
class SearchRunSettings(Settings):
    """All settings of ``nas-search``."""

    checkpoint: str = ""
    """A run of ``nas-train``, or one of its checkpoints; without one only proxies and costs can be objectives."""
    factory: str = ""
    """Of a checkpoint with a custom space, ``package.module:callable``: the one that it names, called if named here."""
    space: Any = None  # typed as optional settings, OmegaConf would assert on space.widths=[8] without a space
    """The checkpoint's own where there is one."""
    data: Any = None
    """The checkpoint's own where there is one, else the digits."""
    open: Any = 1
    """Branches that an architecture opens in each slot, or a list of such numbers; a checkpoint has its run's."""
    search: SearchSettings = field(default_factory=SearchSettings)
    seed: int = rules.seed_number()
    run: str = rules.run_name()
    """Names the folder ``outputs/search/<run>``; the same name goes on with the same search, or joins it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rules.factory_of_checkpoint(self.factory, self.checkpoint)
        self.open = rules.numbers("open", self.open, "open=[1,2]")
        rule, remedy = "is for a search without a checkpoint, which has its run's gate.open", "leave it out"
        require(not self.checkpoint or self.open == [1], "open", self.open, rule, remedy)
