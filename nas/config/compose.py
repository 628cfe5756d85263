"""Hydra's side of the settings: the schema it checks against, and the way back to plain dataclasses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import nas
from nas import settings
from nas.config.explain import parsed
from nas.config.listing import listing
from nas.config.meant import unknown
from nas.config.verbs import VERBS
from nas.errors import SettingError, require

T = TypeVar("T")

SCHEMAS = settings.GROUPS
"""The dataclass behind ``schema/<group>/<name>``, which a file in ``conf/<group>/`` names in its defaults."""

LONGEST = 130
"""Bytes of the name of a run's folder, without the digest of 9; file systems take 255, some that encrypt 143."""


def register(words: Sequence[str] = (), verbs: Iterable[str] = VERBS) -> None:
    """Give Hydra the schema with its defaults, and the resolvers that name folders of a sweep's runs and list files.

    Hydra hands both on to the processes in which a launcher starts the runs.

    Args:
        words: of the command line.
        verbs: whose schemas; Hydra copies all it has several times, which takes a second for ``--help``.
    """
    store = ConfigStore.instance()
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
    for group in ("space", "optimizer"):
        custom = OmegaConf.structured(SCHEMAS[group]["custom"])
        OmegaConf.set_struct(custom.kwargs, False)  # the names in it are the user's own
        store.store(group=f"schema/{group}", name="custom", node=custom)
    model = OmegaConf.structured(SCHEMAS["space"]["model"])
    for free in (model.kwargs, model.gated):
        OmegaConf.set_struct(free, False)  # names of arguments and of modules
    store.store(group="schema/space", name="model", node=model)
    learned = OmegaConf.structured(settings.LearnedGateSettings)
    OmegaConf.set_struct(learned.target, False)  # a name that is no cost has an error of its own
    store.store(group="schema/gate", name="learned", node=learned)
    for verb in verbs:
        schema = OmegaConf.structured(VERBS[verb])
        if verb == "search":
            OmegaConf.set_struct(schema.search.limit, False)  # any objective can have one
        store.store(group="schema", name=verb, node=schema)
    OmegaConf.register_new_resolver("listing", lambda verb: listing(verb, _folders(words)), replace=True)
    OmegaConf.register_new_resolver("swept", lambda overrides: swept(overrides, words), replace=True)


def swept(overrides: Sequence[str], given: Sequence[str]) -> str:
    """A folder's name for one run of a sweep: those of its overrides that ``given`` does not fix.

    What does not belong into a file's name becomes ``_``, and too long a name is cut; a digest of the whole one behind
    it then keeps two of them apart.
    """
    words = OverridesParser.create().parse_overrides(parsed(given)[0].overrides)
    fixed = [word.key_or_group for word in words if not word.is_sweep_override()]
    whole = ",".join(override for override in overrides if override.lstrip("+~").split("=")[0] not in fixed)
    name = re.sub(r"[^\w.,=+\-\[\]]", "_", whole).encode()[:LONGEST].decode(errors="ignore")
    return name if name == whole and name else f"{name}-{sha256(whole.encode()).hexdigest()[:8]}" if name else "run"


def conf_folder() -> str:
    """Where the config files are: ``conf/`` of a checkout, or what the wheel carries as ``nas/conf/``."""
    package = Path(nas.__file__).resolve().parent
    checkout = package.parent / "conf"
    return str(checkout if (checkout / "train.yaml").is_file() else package / "conf")


def _folders(words: Sequence[str]) -> list[Path]:
    """Where config files are looked for: ours, and the user's own of ``--config-dir``."""
    own = parsed(words)[0].config_dir
    return [Path(conf_folder()), *([Path(own)] if own else [])]


def settings_from(config: DictConfig, schema: type[T]) -> T:
    """The composed config as plain dataclasses, their rules checked.

    Raises:
        SettingError: a setting is unknown, or a value out of range.
        omegaconf.errors.OmegaConfBaseException: a value is missing or cannot be resolved.
    """
    result = OmegaConf.to_object(config)
    rule, remedy = "builds on none of the files of the command", "write defaults: [train, _self_] at its top"
    require(isinstance(result, schema), "--config-name", "of your own", rule, remedy)
    assert isinstance(result, schema)
    groups = {group: vars(result).get(group) for group in SCHEMAS}
    _refuse_unread(result, partial(unknown, schema=schema, chosen={k: v.name for k, v in groups.items() if v}))
    return result


def yaml_of(settings: Any) -> str:
    """Settings as YAML, for a reader."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(settings)))


def _refuse_unread(group: Any, meant: Callable[[str], tuple[str, str]], prefix: str = "") -> None:
    """Refuse what has no effect: keys that ``+key=value`` has added, and a group's ``name`` that was set."""
    known, kinds = [field.name for field in fields(group)], get_type_hints(type(group))
    for name, value in vars(group).items():
        if name not in known:
            raise SettingError(f"{prefix}{name}", value, *meant(f"{prefix}{name}"))
        if name == "name" and value != type(group).name:
            key = prefix.rstrip(".")
            raise SettingError(f"{prefix}name", value, "is not chosen by its name", f"write {key}={value}")
        if is_dataclass(value):
            _refuse_unread(value, meant, f"{prefix}{name}.")
        elif is_dataclass(kinds[name]) or (name in SCHEMAS and value is not None):  # train=${seed} gets as far as here
            remedy = f"set what is in it, as {prefix}{name}.NAME=VALUE"
            raise SettingError(f"{prefix}{name}", value, "is a group of settings", remedy)
