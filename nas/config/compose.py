"""Hydra's side of the settings: the schema it checks against, and the way back to plain dataclasses."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

import nas
from nas import settings

T = TypeVar("T")

SCHEMAS: dict[str, dict[str, type]] = {
    "space": {
        "two_branch": settings.TwoBranchSettings,
        "chain": settings.ChainSettings,
        "macro": settings.MacroSettings,
        "custom": settings.CustomSettings,
    },
    "gate": {
        "fixed": settings.FixedGateSettings,
        "uniform": settings.UniformGateSettings,
        "fair": settings.FairGateSettings,
        "learned": settings.LearnedGateSettings,
    },
    "data": {
        "digits": settings.DigitsSettings,
        "cifar": settings.CifarSettings,
        "folder": settings.FolderSettings,
        "synthetic": settings.SyntheticSettings,
    },
    "optimizer": {"sgd": settings.SGDSettings, "adamw": settings.AdamWSettings},
}
"""The dataclass behind ``schema/<group>/<name>``, which a file in ``conf/<group>/`` names in its defaults."""

# A group's default in the dataclass is a choice like any other: the files in conf/ make theirs in its place.
VERBS = {
    "train": settings.TrainRunSettings(**dict.fromkeys(SCHEMAS, settings.MISSING)),
    "bench": settings.BenchSettings(),
}


def register() -> None:
    """Tell Hydra the schema."""
    store = ConfigStore.instance()
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
    for verb, schema in VERBS.items():
        node = OmegaConf.structured(schema)
        for group in SCHEMAS.keys() & node.keys():
            node[group] = MISSING  # the default is one of several siblings, which would not merge with each other
        store.store(group="schema", name=verb, node=node)


def conf_folder() -> str:
    """Where the config files are: ``conf/`` of a checkout, or what the wheel carries as ``nas/conf/``."""
    package = Path(nas.__file__).resolve().parent
    checkout = package.parent / "conf"
    return str(checkout if (checkout / "train.yaml").is_file() else package / "conf")


def settings_from(config: DictConfig, schema: type[T]) -> T:
    """The composed config as plain dataclasses, their rules checked.

    Raises:
        SettingError: a value is out of range.
        omegaconf.errors.OmegaConfBaseException: a value is missing or cannot be resolved.
    """
    result = OmegaConf.to_object(config)
    assert isinstance(result, schema), f"the primary config of {schema.__name__} does not name its schema"
    return result
