"""What can be set, with its type, its default and its rule: plain dataclasses, one or more for each room.

They import neither torch nor Hydra, so that every room can be used as a library. Under the command line they are
the schema that the files in ``conf/`` are checked against. A rule that a type cannot say stands beside the default
(:mod:`nas.settings.rules`), one about several settings in ``__post_init__``, and both are checked as soon as settings
are made.
"""

from nas.settings.bench import BenchSettings
from nas.settings.data import (
    ArraysSettings,
    Cifar100Settings,
    CifarSettings,
    DataSettings,
    DigitsSettings,
    FolderSettings,
    SyntheticSettings,
    TensorSettings,
)
from nas.settings.export import ExportSettings
from nas.settings.gate import (
    FairGateSettings,
    FixedGateSettings,
    GateSettings,
    LearnedGateSettings,
    UniformGateSettings,
)
from nas.settings.groups import GROUPS, train_settings
from nas.settings.rank import RankRunSettings, RankSettings
from nas.settings.rules import MISSING
from nas.settings.score import ScoreSettings
from nas.settings.search import SearchRunSettings, SearchSettings, TrainingsSettings, VerdictSettings
from nas.settings.space import (
    CellSettings,
    ChainSettings,
    CustomSettings,
    MacroSettings,
    ModelSettings,
    ResidualSettings,
    SpaceSettings,
    TwoBranchSettings,
)
from nas.settings.train import (
    AdamWSettings,
    CustomOptimizerSettings,
    DistSettings,
    EvaluateSettings,
    OptimizerSettings,
    SGDSettings,
    TrackSettings,
    TrainRunSettings,
    TrainSettings,
    Way,
)

__all__ = [
    "GROUPS",
    "MISSING",
    "AdamWSettings",
    "ArraysSettings",
    "BenchSettings",
    "CellSettings",
    "ChainSettings",
    "Cifar100Settings",
    "CifarSettings",
    "CustomOptimizerSettings",
    "CustomSettings",
    "DataSettings",
    "DigitsSettings",
    "DistSettings",
    "EvaluateSettings",
    "ExportSettings",
    "FairGateSettings",
    "FixedGateSettings",
    "FolderSettings",
    "GateSettings",
    "LearnedGateSettings",
    "MacroSettings",
    "ModelSettings",
    "OptimizerSettings",
    "RankRunSettings",
    "RankSettings",
    "ResidualSettings",
    "SGDSettings",
    "ScoreSettings",
    "SearchRunSettings",
    "SearchSettings",
    "SpaceSettings",
    "SyntheticSettings",
    "TensorSettings",
    "TrackSettings",
    "TrainRunSettings",
    "TrainSettings",
    "TrainingsSettings",
    "TwoBranchSettings",
    "UniformGateSettings",
    "VerdictSettings",
    "Way",
    "train_settings",
]
