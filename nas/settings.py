"""What can be set, with its type, its default and its rule: plain dataclasses, one or more for each room.

They import neither torch nor Hydra, so that every room can be used as a library. Under the command line they are
the schema that the files in ``conf/`` are checked against. A rule that a type cannot say stands in
``__post_init__`` and holds for both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nas.errors import require

MISSING: Any = "???"  # OmegaConf's mark for a value that must be given


def _positive(prefix: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        require(value > 0, f"{prefix}.{name}", value, "must be above 0", f"write for example {prefix}.{name}=1")


def _not_negative(prefix: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        require(value >= 0, f"{prefix}.{name}", value, "must not be negative", "0 switches it off")


def _fraction(prefix: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        rule = "must lie in [0, 1)"
        require(0 <= value < 1, f"{prefix}.{name}", value, rule, f"write for example {prefix}.{name}=0.1")


def _one_of(key: str, value: object, *allowed: str) -> None:
    require(value in allowed, key, value, f"must be one of {', '.join(allowed)}", "choose one of them")


# ---------------------------------------------------------------------------------------------------- space


@dataclass
class SpaceSettings:
    """The part that all spaces share: which one it is."""

    name: str = MISSING


@dataclass
class TwoBranchSettings(SpaceSettings):
    """One slot of ``branches`` small convolutional branches, then three dense layers."""

    name: str = "two_branch"
    branches: int = 2
    width: int = 1
    """Multiplies the channels of the branches (6 and 16)."""

    def __post_init__(self) -> None:
        _positive("space", self, "branches", "width")


@dataclass
class ChainSettings(SpaceSettings):
    """Slots in a row, in stages: stage ``i`` has ``depths[i]`` slots of ``widths[i]`` channels."""

    name: str = "chain"
    widths: list[int] = field(default_factory=lambda: [16, 32])
    depths: list[int] = field(default_factory=lambda: [2, 2])
    strides: list[int] = field(default_factory=lambda: [1, 2])
    """Stride of the first slot of each stage."""
    stem_stride: int = 2
    candidates: list[str] = field(default_factory=lambda: ["skip", "conv1", "conv3", "conv5"])
    merge: str = "sum"
    """How a slot's branches meet: ``sum`` or ``concat`` (followed by a 1x1 convolution, a weight a branch)."""

    def __post_init__(self) -> None:
        lengths = {len(self.widths), len(self.depths), len(self.strides)}
        value = f"{self.widths}, {self.depths}, {self.strides}"
        rule = "widths, depths and strides must have one entry a stage"
        remedy = "write for example space.widths=[16,32] space.depths=[2,2] space.strides=[1,2]"
        require(len(lengths) == 1 and lengths != {0}, "space.widths, depths, strides", value, rule, remedy)
        for name in ("widths", "depths", "strides"):
            entries = getattr(self, name)
            remedy = f"write for example space.{name}=[1,2]"
            require(min(entries) > 0, f"space.{name}", entries, "every entry must be above 0", remedy)
        _positive("space", self, "stem_stride")
        require(
            len(self.candidates) > 0,
            "space.candidates",
            self.candidates,
            "must name at least one operation",
            "write for example space.candidates=[skip,conv3]",
        )
        _one_of("space.merge", self.merge, "sum", "concat")


@dataclass
class MacroSettings(SpaceSettings):
    """NAS-Bench-Macro: 8 slots of Identity, MB3_K3 and MB6_K5; 6,561 architectures."""

    name: str = "macro"


@dataclass
class CustomSettings(SpaceSettings):
    """A module of the user's own with gated blocks in it and ``forward(x, architecture)``."""

    name: str = "custom"
    factory: str = MISSING
    """``package.module:callable``; called with ``kwargs`` it gives the supernet."""
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module, colon, attribute = self.factory.partition(":")
        require(
            bool(module and colon and attribute),
            "space.factory",
            self.factory,
            "must read package.module:callable",
            "write for example space.factory=my_pkg.my_net:MyNet",
        )


# ----------------------------------------------------------------------------------------------------- gate


@dataclass
class GateSettings:
    """The part that all gates share: which one it is."""

    name: str = MISSING


@dataclass
class FixedGateSettings(GateSettings):
    """Always the same architecture."""

    name: str = "fixed"
    architecture: str = MISSING
    """One choice a slot, as in ``1-0-2``; ``0+1`` opens two gates of one slot."""


@dataclass
class UniformGateSettings(GateSettings):
    """Each slot draws each choice with the same probability, independently (SPOS)."""

    name: str = "uniform"


@dataclass
class FairGateSettings(GateSettings):
    """Strict fairness (FairNAS): in every round each choice of each slot runs exactly once."""

    name: str = "fair"
    mode: str = "accumulate"
    """``accumulate``: one update from the sum of a round's gradients; ``step_each``: an update a path."""

    def __post_init__(self) -> None:
        _one_of("gate.mode", self.mode, "accumulate", "step_each")


@dataclass
class LearnedGateSettings(GateSettings):
    """One logit a choice, drawn hard with Gumbel noise, learned on the held-out split."""

    name: str = "learned"
    lr: float = 0.05
    temperature: float = 5.0
    final_temperature: float = 0.5
    every: int = 20
    """Steps of the weights for each step of the logits; a step of the logits costs about one of the weights."""

    def __post_init__(self) -> None:
        _positive("gate", self, "lr", "temperature", "final_temperature", "every")


# ----------------------------------------------------------------------------------------------------- data


@dataclass
class DataSettings:
    """What all data sets share: how they are split and augmented."""

    name: str = MISSING
    val_fraction: float = 0.1
    """Share of the training pictures that is held out for validation."""
    crop: int = 4
    """Pixels of zero padding that a random crop may move into; 0 switches it off."""
    flip: bool = True
    """Mirror half of the pictures left to right."""
    cutout: int = 0
    """Side in pixels of a square that is erased at a random place; 0 switches it off."""

    def __post_init__(self) -> None:
        _fraction("data", self, "val_fraction")
        require(
            self.val_fraction > 0,
            "data.val_fraction",
            self.val_fraction,
            "must be above 0: subnetworks are compared on held-out pictures",
            "write for example data.val_fraction=0.1",
        )
        _not_negative("data", self, "crop", "cutout")


@dataclass
class DigitsSettings(DataSettings):
    """scikit-learn's 1,797 handwritten digits, resized to 32x32x3; needs no network."""

    name: str = "digits"
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    flip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _fraction("data", self, "test_fraction")


@dataclass
class CifarSettings(DataSettings):
    """CIFAR-10 or CIFAR-100 as torchvision downloads it."""

    name: str = "cifar10"
    root: str = "data"
    download: bool = True


@dataclass
class FolderSettings(DataSettings):
    """Class folders of pictures under ``train/`` and ``test/``, or a zip of them."""

    name: str = "folder"
    root: str = MISSING
    image_size: int = 32
    cache: str = "~/.cache/gated-nas"

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("data", self, "image_size")


@dataclass
class SyntheticSettings(DataSettings):
    """Noise around one random picture a class; for tests and benchmarks."""

    name: str = "synthetic"
    classes: int = 10
    size: int = 2048
    """Training and validation pictures together; the test split has a quarter of it on top."""
    image_size: int = 32
    channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("data", self, "size", "image_size", "channels")
        remedy = "write for example data.classes=10"
        require(self.classes >= 2, "data.classes", self.classes, "must be at least 2", remedy)


# ---------------------------------------------------------------------------------------------------- train


@dataclass
class OptimizerSettings:
    """The part that all optimizers share."""

    name: str = MISSING
    lr: float = 0.05
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        _positive("optimizer", self, "lr")
        _not_negative("optimizer", self, "weight_decay")


@dataclass
class SGDSettings(OptimizerSettings):
    """SGD with momentum."""

    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _fraction("optimizer", self, "momentum")
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
        _fraction("optimizer", self, "beta1", "beta2")


@dataclass
class TrainSettings:
    """How long, how fast and on what."""

    epochs: int = 20
    batch_size: int = 64
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
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
        _positive("train", self, "epochs", "batch_size")
        require(
            self.batch_size >= 2,
            "train.batch_size",
            self.batch_size,
            "must be at least 2: BatchNorm has no variance of one picture",
            "write for example train.batch_size=64",
        )
        _not_negative("train", self, "warmup_epochs", "clip_norm", "threads", "save_every")
        _fraction("train", self, "label_smoothing", "ema_decay")
        _one_of("train.schedule", self.schedule, "cosine", "onecycle", "constant")
        _one_of("train.precision", self.precision, "float32", "bf16")
        _one_of("train.compile", self.compile, "none", "branches")
        remedy = "shorten the warm-up or lengthen the run"
        ok = self.warmup_epochs < self.epochs or self.schedule != "cosine"
        require(ok, "train.warmup_epochs", self.warmup_epochs, "must be below train.epochs", remedy)


@dataclass
class EvaluateSettings:
    """How subnetworks are judged on held-out pictures."""

    every_epochs: int = 1
    batch_size: int = 256
    recalibrate: bool = True
    """Estimate BatchNorm statistics anew for each subnetwork, on a private copy."""
    recalibrate_images: int = 2048
    rounds: int = 2
    """Evaluated architectures, in rounds in which each choice of each slot occurs once."""

    def __post_init__(self) -> None:
        _positive("evaluate", self, "every_epochs", "batch_size", "recalibrate_images", "rounds")


@dataclass
class TrackSettings:
    """What is written down, and how often."""

    log_every: int = 20
    """Steps between two points of the training curves."""
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        _positive("track", self, "log_every")


@dataclass
class TrainRunSettings:
    """Everything that ``nas-train`` can be told."""

    space: SpaceSettings = field(default_factory=TwoBranchSettings)
    gate: GateSettings = field(default_factory=UniformGateSettings)
    data: DataSettings = field(default_factory=DigitsSettings)
    optimizer: OptimizerSettings = field(default_factory=SGDSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    track: TrackSettings = field(default_factory=TrackSettings)
    seed: int = 0
    run: str = ""
    """Names the folder ``outputs/train/<run>``; the same name goes on with the same run."""

    def __post_init__(self) -> None:
        _not_negative("", self, "seed") if self.seed < 0 else None
        ok = "/" not in self.run and "\\" not in self.run and self.run not in (".", "..")
        require(ok, "run", self.run, "must be a plain name", "to choose the folder write hydra.run.dir=PATH")


# ---------------------------------------------------------------------------------------------------- bench


@dataclass
class BenchSettings:
    """Everything that ``nas-bench`` can be told."""

    suite: str = "gating"
    rounds: int = 40
    """Timed rounds; in each, every variant of a row takes its turn."""
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("suite", self.suite, "gating")
        require(self.rounds >= 3, "rounds", self.rounds, "must be at least 3: it takes medians", "use rounds=40")
        require(self.threads >= 1, "threads", self.threads, "must be at least 1", "use threads=1")
