"""Settings of a training run: optimizer, length, evaluation, tracking, several processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from nas.errors import did_you_mean, require
from nas.settings import rules
from nas.settings.data import DataSettings, DigitsSettings
from nas.settings.gate import GateSettings, UniformGateSettings
from nas.settings.rules import AUTO, MISSING, Settings
from nas.settings.space import SpaceSettings, TwoBranchSettings

CROSS_ENTROPY = "cross_entropy"
"""The one loss that ``train.loss`` knows by name."""
WRITERS = ("tensorboard", "csv", "wandb", "mlflow")
"""What ``track.writers`` knows by name."""


@dataclass
class OptimizerSettings(Settings, group="optimizer"):
    """What all optimizers have in common."""

    name: str = MISSING
    lr: float = rules.positive(0.05)


@dataclass
class SGDSettings(OptimizerSettings):
    """SGD with momentum."""

    name: str = "sgd"
    weight_decay: float = rules.not_negative(5e-4)
    momentum: float = rules.fraction(0.9)
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "set optimizer.momentum=0.9 or optimizer.nesterov=false"
        ok = self.momentum > 0 or not self.nesterov
        require(ok, "optimizer.nesterov", self.nesterov, "needs a momentum above 0", remedy)


@dataclass
class AdamWSettings(OptimizerSettings):
    """AdamW."""

    name: str = "adamw"
    lr: float = rules.positive(1e-3)
    weight_decay: float = rules.not_negative(1e-2)
    beta1: float = rules.fraction(0.9)
    beta2: float = rules.fraction(0.999)


@dataclass
class CustomOptimizerSettings(OptimizerSettings):
    """An optimizer of ``torch.optim`` or of the user's own."""

    name: str = "custom"
    lr: float = rules.positive(1e-3)
    """Its largest learning rate, and that of its parameter groups if it makes several; those keep their ratios."""
    factory: str = rules.import_name("optimizer.factory=torch.optim:RAdam")
    """``package.module:callable``; called with a list of parameters, ``lr=`` and ``kwargs`` it gives the optimizer."""
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """How a step is computed: its result is the same but for rounding, of bf16 where that is asked for."""

    channels_last: bool = False
    precision: str = "float32"
    compile: str = "none"


@dataclass
class TrainSettings(Settings, group="train"):
    """Length, batch size, schedule, precision and device of a training."""

    epochs: int = rules.positive(20)
    """A run can be given more of them, where that gives the run that it would have been, or with ``extend``."""
    batch_size: int = rules.at_least(2, 64, ": BatchNorm has no variance of one image")
    schedule: str = rules.import_name("my_pkg.my:schedule", "cosine", "onecycle", "constant")
    """Of the learning rate; your own is called with ``step, total_steps, steps_per_epoch`` and gives a factor."""
    warmup_epochs: float = rules.not_negative(1.0)
    """Epochs of linear warm-up, at most half of the run; for cosine and constant."""
    loss: str = rules.import_name("my_pkg.my:loss", CROSS_ENTROPY)
    """What a step lowers; your own is called with logits and labels. Gate and evaluation keep to the cross-entropy."""
    label_smoothing: float = rules.fraction(0.0)
    """For cross_entropy."""
    class_weights: str = rules.choice("none", "balanced")
    """``balanced`` weights a class in the cross-entropy by the inverse of its share of the training images."""
    clip_norm: float = rules.not_negative(0.0)
    """Largest gradient norm over the parameters of a step; 0 switches it off."""
    ema_decay: float = rules.fraction(0.0)
    """Decay of the moving average of the weights; 0 switches it off."""
    fast: str = rules.choice(AUTO, "none")
    """``auto`` times a few steps before the first one and takes the fastest of what is ``auto`` below; the run keeps
    it. ``none`` times nothing, and computes as torch does by default, which gives the same bits in each run."""
    precision: str = rules.choice("float32", "bf16", AUTO)
    """``auto`` allows bf16, which rounds to 3 digits, where it is faster."""
    channels_last: bool | str = rules.switch_or_auto()
    """Keep images and weights with their channels last in memory."""
    compile: str = rules.choice(AUTO, "none", "branches")
    """``branches`` compiles what holds no gate by parts: a compiled supernet would recompile for every path."""
    tf32: bool = False
    """On a GPU round the factors of float32 products to 10 bits behind the point: faster, and not float32."""
    cudnn_benchmark: bool = False
    """On a GPU time the algorithms of each convolution and take the fastest, which need not be the same after a kill;
    otherwise they are chosen by rule, of those alone that give the same bits each time."""
    device: str = "auto"
    threads: int | str = rules.thread_count()
    """CPU threads; ``auto`` takes one or all, whichever is faster in the first steps, and the run keeps it; 0 leaves
    torch's own choice. The same number is needed for the same bits."""
    save_every: int = rules.not_negative(0)
    """Steps between checkpoints; 0 saves once an epoch."""
    extend: bool = False
    """Begin a new cycle of the schedule for the epochs that a run is given more of."""
    init: str = ""
    """A run or checkpoint whose weights a new run begins with, in place of those of its seed."""

    @property
    def way(self) -> Way:
        """What is given of how a step is computed; torch's default where that is ``auto``."""
        given = {one.name: getattr(self, one.name) for one in fields(Way)}
        return Way(**{name: value for name, value in given.items() if value != AUTO})

    def computed(self, way: Way) -> TrainSettings:
        """These settings with what is left open decided."""
        return replace(self, **asdict(way))

    @property
    def left_open(self) -> list[str]:
        """The settings of how a step is computed that are ``auto``."""
        return [one.name for one in fields(Way) if getattr(self, one.name) == AUTO]

    def __post_init__(self) -> None:
        super().__post_init__()
        rule, remedy = f"is for train.loss={CROSS_ENTROPY}", "leave it out, or leave train.loss out"
        for name in ("label_smoothing", "class_weights"):
            ok = self.loss == CROSS_ENTROPY or getattr(self, name) in (0, "none")
            require(ok, f"train.{name}", getattr(self, name), rule, remedy)


@dataclass
class EvaluateSettings(Settings, group="evaluate"):
    """How subnetworks are evaluated on held-out images."""

    every_epochs: int = rules.positive(1)
    batch_size: int = rules.positive(256)
    recalibrate: bool = True
    """Estimate BatchNorm statistics for each subnetwork, on a private copy of the supernet."""
    images: int = rules.not_negative(0)
    """Held-out images that subnetworks are compared on, with the same share of each class; 0 takes all."""
    recalibrate_images: int = rules.positive(2048)
    interim_images: int = rules.not_negative(1024)
    """Held-out images of the evaluations before the last one, with half as many to recalibrate on, at most; 0 takes as
    many as the last one."""
    rounds: int = rules.positive(2)
    """Evaluated architectures, in rounds in which each choice of each slot occurs once."""

    @property
    def interim(self) -> EvaluateSettings:
        """Those of the evaluations before the last one."""
        if not (most := self.interim_images):
            return self
        calibration = min(self.recalibrate_images, -(-most // 2))
        return replace(self, images=min(self.images or most, most), recalibrate_images=calibration)


@dataclass
class TrackSettings(Settings, group="track"):
    """What a run logs, and how often."""

    log_every: int = rules.positive(20)
    """Steps between two points of the training curves."""
    writers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where the curves go beside ``metrics.jsonl``: names of writers, or ``package.module:class`` of your own."""
    progress: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        example = "write for example track.writers=[tensorboard,csv]"
        for name in self.writers:
            remedy = did_you_mean(name, WRITERS, example)
            ok = name in WRITERS or rules.is_import_name(name)
            rule = f"must be of {', '.join(WRITERS)}, or your own as in my_pkg.my:MyWriter"
            require(ok, "track.writers", name, rule, remedy)
            require(self.writers.count(name) == 1, "track.writers", name, "must be named once", example)


@dataclass
class DistSettings(Settings, group="dist"):
    """How several processes train one run; one process alone ignores these settings."""

    paths: str = rules.choice("same", "own")
    """``same``: all run the same paths, each on its part of the batch. ``own``: each runs paths of its own."""
    batchnorm: str = rules.choice("local", "sync")
    """``local``: each process normalises its part of a batch by itself. ``sync``: by the whole batch, at two messages a
    layer and direction."""
    check_every: int = rules.positive(50)
    """Steps between two comparisons of what the processes run."""
    timeout_s: float = rules.positive(1800.0)
    """Seconds that a process waits for the others, for example while rank 0 evaluates and saves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "needs the same paths in all processes: a layer's statistics are of those that run it"
        ok = self.paths == "same" or self.batchnorm == "local"
        require(ok, "dist.batchnorm", self.batchnorm, rule, "write dist.paths=same, or dist.batchnorm=local")


@dataclass
class TrainRunSettings(Settings):
    """All settings of ``nas-train``."""

    space: SpaceSettings = field(default_factory=TwoBranchSettings)
    gate: GateSettings = field(default_factory=UniformGateSettings)
    data: DataSettings = field(default_factory=DigitsSettings)
    optimizer: OptimizerSettings = field(default_factory=SGDSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    track: TrackSettings = field(default_factory=TrackSettings)
    dist: DistSettings = field(default_factory=DistSettings)
    seed: int = rules.seed_number()
    run: str = rules.run_name()
    """Names the folder ``outputs/train/<run>``; the same name goes on with the same run."""
    architecture: str = ""
    """Train this one alone instead of a supernet, beside a random one of the same FLOPs; ``best`` of the two below."""
    checkpoint: str = ""
    """With ``architecture``: a run of a supernet whose weights it inherits in a further training."""
    search: str = ""
    """With ``architecture``: a search of ``nas-search``, for its checkpoint and its best."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = next((key for key in ("checkpoint", "search") if getattr(self, key)), None)
        if given is not None:
            rule = "is for training a subnetwork of it alone"
            require(bool(self.architecture), given, getattr(self, given), rule, "write architecture=best beside it")
        rules.one_source(self.checkpoint, self.search)
        ok = self.architecture != "best" or given is not None
        remedy = "write checkpoint=outputs/train/NAME or search=outputs/search/NAME beside it"
        require(ok, "architecture", "best", "of what, has to be said", remedy)
        twice = self.train.class_weights != "none" and getattr(self.data, "balance", "none") != "none"
        rule, remedy = "corrects again what data.balance=sampler corrects", "leave one of them out"
        require(not twice, "train.class_weights", self.train.class_weights, rule, remedy)
        for key, value, remedy in (
            ("train.init", self.train.init, "write checkpoint= for the weights that one of them inherits"),
            ("train.extend", self.train.extend, "take another run=NAME"),
        ):
            rule = "is for one run, and architecture= makes several"
            require(not (self.architecture and value), key, value, rule, remedy)
        ok = not self.architecture or isinstance(self.gate, UniformGateSettings)
        rule = "must be left out where architecture= is given: that is trained with a fixed gate"
        require(ok, "gate", getattr(self.gate, "name", self.gate), rule, "leave out one of them")
