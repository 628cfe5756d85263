"""Settings of a training run: optimizer, length, evaluation, tracking, several processes."""

from __future__ import annotations

from dataclasses import dataclass, field

from nas.errors import require
from nas.settings.data import DataSettings, DigitsSettings
from nas.settings.gate import GateSettings, UniformGateSettings
from nas.settings.rules import MISSING, check_run, check_threads, fraction, not_negative, one_of, positive
from nas.settings.space import SpaceSettings, TwoBranchSettings


@dataclass
class OptimizerSettings:
    """What all optimizers have in common."""

    name: str = MISSING
    lr: float = 0.05
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        positive("optimizer", self, "lr")
        not_negative("optimizer", self, "weight_decay")


@dataclass
class SGDSettings(OptimizerSettings):
    """SGD with momentum."""

    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction("optimizer", self, "momentum")
        remedy = "set optimizer.momentum=0.9 or optimizer.nesterov=false"
        ok = self.momentum > 0 or not self.nesterov
        require(ok, "optimizer.nesterov", self.nesterov, "needs a momentum above 0", remedy)


@dataclass
class AdamWSettings(OptimizerSettings):
    """AdamW."""

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction("optimizer", self, "beta1", "beta2")


@dataclass
class TrainSettings:
    """Length, batch size, schedule, precision and device of a training."""

    epochs: int = 20
    batch_size: int = 64
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up, at most half of the run."""
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    """Largest gradient norm over the parameters of a step; 0 switches it off."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights; 0 switches it off."""
    precision: str = "float32"
    channels_last: bool = False
    compile: str = "none"
    """``branches`` compiles each branch by itself: a compiled supernet would recompile for every path."""
    device: str = "auto"
    threads: int = 0
    """CPU threads; 0 leaves torch's own choice. The same number is needed for the same bits."""
    save_every: int = 0
    """Steps between checkpoints; 0 saves once an epoch."""

    def __post_init__(self) -> None:
        positive("train", self, "epochs", "batch_size")
        require(
            self.batch_size >= 2,
            "train.batch_size",
            self.batch_size,
            "must be at least 2: BatchNorm has no variance of one image",
            "write for example train.batch_size=64",
        )
        not_negative("train", self, "warmup_epochs", "clip_norm", "save_every")
        fraction("train", self, "label_smoothing", "ema_decay")
        check_threads("train.threads", self.threads)
        one_of("train.schedule", self.schedule, "cosine", "onecycle", "constant")
        one_of("train.precision", self.precision, "float32", "bf16")
        one_of("train.compile", self.compile, "none", "branches")


@dataclass
class EvaluateSettings:
    """How subnetworks are evaluated on held-out images."""

    every_epochs: int = 1
    batch_size: int = 256
    recalibrate: bool = True
    """Estimate BatchNorm statistics for each subnetwork, on a private copy of the supernet."""
    recalibrate_images: int = 2048
    rounds: int = 2
    """Evaluated architectures, in rounds in which each choice of each slot occurs once."""

    def __post_init__(self) -> None:
        positive("evaluate", self, "every_epochs", "batch_size", "recalibrate_images", "rounds")


@dataclass
class TrackSettings:
    """What a run logs, and how often."""

    log_every: int = 20
    """Steps between two points of the training curves."""
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        positive("track", self, "log_every")


@dataclass
class DistSettings:
    """How several processes train one run; one process alone ignores these settings."""

    paths: str = "same"
    """``same``: all run the same paths, each on its part of the batch. ``own``: each runs paths of its own."""
    batchnorm: str = "local"
    """``local``: each process normalises its part of a batch by itself. ``sync``: by the whole batch, at two messages a
    layer and direction."""
    check_every: int = 50
    """Steps between two comparisons of what the processes run."""
    timeout_s: float = 1800.0
    """Seconds that a process waits for the others, for example while rank 0 evaluates and saves."""

    def __post_init__(self) -> None:
        one_of("dist.paths", self.paths, "same", "own")
        one_of("dist.batchnorm", self.batchnorm, "local", "sync")
        positive("dist", self, "check_every", "timeout_s")
        rule = "needs the same paths in all processes: a layer's statistics are of those that run it"
        ok = self.paths == "same" or self.batchnorm == "local"
        require(ok, "dist.batchnorm", self.batchnorm, rule, "write dist.paths=same, or dist.batchnorm=local")


@dataclass
class TrainRunSettings:
    """All settings of ``nas-train``."""

    space: SpaceSettings = field(default_factory=TwoBranchSettings)
    gate: GateSettings = field(default_factory=UniformGateSettings)
    data: DataSettings = field(default_factory=DigitsSettings)
    optimizer: OptimizerSettings = field(default_factory=SGDSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    track: TrackSettings = field(default_factory=TrackSettings)
    dist: DistSettings = field(default_factory=DistSettings)
    seed: int = 0
    run: str = "unnamed"
    """Names the folder ``outputs/train/<run>``; the same name goes on with the same run."""
    architecture: str = ""
    """Train this one alone instead of a supernet, beside a random one of the same FLOPs; ``best`` of the two below."""
    checkpoint: str = ""
    """With ``architecture``: a run of a supernet whose weights it inherits in a further training."""
    search: str = ""
    """With ``architecture``: a search of ``nas-search``, for its checkpoint and its best."""

    def __post_init__(self) -> None:
        self._check_retraining()
        check_run(self.run, self.seed)

    def _check_retraining(self) -> None:
        given = next((key for key in ("checkpoint", "search") if getattr(self, key)), None)
        if given is not None:
            rule = "is for training a subnetwork of it alone"
            require(bool(self.architecture), given, getattr(self, given), rule, "write architecture=best beside it")
        both = f"{self.checkpoint}, {self.search}"
        ok = not (self.checkpoint and self.search)
        require(ok, "checkpoint, search", both, "a search has its own checkpoint", "leave one of them out")
        ok = self.architecture != "best" or given is not None
        remedy = "write checkpoint=outputs/train/NAME or search=outputs/search/NAME beside it"
        require(ok, "architecture", "best", "of what, has to be said", remedy)
        ok = not self.architecture or isinstance(self.gate, UniformGateSettings)
        rule = "must be left out where architecture= is given: that is trained with a fixed gate"
        require(ok, "gate", getattr(self.gate, "name", self.gate), rule, "leave out one of them")
