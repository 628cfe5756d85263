"""Hydra's side of the settings: the schema it checks against, and the way back to plain dataclasses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import nas
from nas import settings
from nas.errors import SettingError

T = TypeVar("T")

SCHEMAS = settings.GROUPS
"""The dataclass behind ``schema/<group>/<name>``, which a file in ``conf/<group>/`` names in its defaults."""

# Groups are left open: OmegaConf would not let another choice take the place of the dataclass's default.
VERBS: dict[str, Any] = {
    "train": settings.TrainRunSettings(**dict.fromkeys(SCHEMAS, settings.MISSING)),
    "bench": settings.BenchSettings(),
    "score": settings.ScoreSettings(space=settings.MISSING, data=settings.MISSING),
    "search": settings.SearchRunSettings(),
    "rank": settings.RankRunSettings(),
    "export": settings.ExportSettings(),
}


def register() -> None:
    """Tell Hydra the schema, and how the folders of a sweep are named."""
    store = ConfigStore.instance()
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
    custom = OmegaConf.structured(settings.CustomSettings)
    OmegaConf.set_struct(custom.kwargs, False)  # the names in it are the user's own
    store.store(group="schema/space", name="custom", node=custom)
    for verb, schema in VERBS.items():
        store.store(group="schema", name=verb, node=schema)
    search = OmegaConf.structured(VERBS["search"])
    OmegaConf.set_struct(search.search.limit, False)  # any objective can have one
    store.store(group="schema", name="search", node=search)
    OmegaConf.register_new_resolver("swept", lambda overrides: swept(overrides, sys.argv[1:]), replace=True)


def swept(overrides: Sequence[str], given: Sequence[str]) -> str:
    """A folder's name for one run of a sweep: those of its overrides that ``given`` does not fix."""
    parsed = OverridesParser.create().parse_overrides([word for word in given if not word.startswith("-")])
    fixed = [override.key_or_group for override in parsed if not override.is_sweep_override()]
    name = ",".join(override for override in overrides if override.lstrip("+~").split("=")[0] not in fixed)
    return name.replace("/", "_") or "run"


def conf_folder() -> str:
    """Where the config files are: ``conf/`` of a checkout, or what the wheel carries as ``nas/conf/``."""
    package = Path(nas.__file__).resolve().parent
    checkout = package.parent / "conf"
    return str(checkout if (checkout / "train.yaml").is_file() else package / "conf")


def settings_from(config: DictConfig, schema: type[T]) -> T:
    """The composed config as plain dataclasses, their rules checked.

    Raises:
        SettingError: a setting is unknown, or a value out of range.
        omegaconf.errors.OmegaConfBaseException: a value is missing or cannot be resolved.
    """
    result = OmegaConf.to_object(config)
    assert isinstance(result, schema), f"the primary config of {schema.__name__} does not name its schema"
    _refuse_unread(result)
    return result


def _refuse_unread(group: Any, prefix: str = "") -> None:
    """Refuse what would be read by nobody: keys that ``+key=value`` has added, and a group's ``name`` that was set."""
    known = [field.name for field in fields(group)]
    for name, value in vars(group).items():
        if name not in known:
            remedy = f"leave it out, or choose one of {', '.join(known)}"
            raise SettingError(f"{prefix}{name}", value, f"there is no setting {prefix}{name}", remedy)
        if name == "name" and value != type(group).name:
            key = prefix.rstrip(".")
            raise SettingError(f"{prefix}name", value, "is not chosen by its name", f"write {key}={value}")
        if is_dataclass(value):
            _refuse_unread(value, f"{prefix}{name}.")
