"""What went wrong with a command line, in one line that says how to get it right."""

from __future__ import annotations

from argparse import ArgumentError, Namespace
from collections.abc import Sequence
from types import NoneType
from typing import Any, get_args, get_type_hints

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from nas.errors import LONGEST, one_line

SEE_ALL = "--cfg job prints all settings, --help the groups"
LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")
"""Choices of hydra/launcher that the extra ``sweep`` brings."""
KINDS: dict[Any, str] = {
    int: "must be a whole number",
    float: "must be a number",
    bool: "must be true or false",
    str: "must be a name or a text",
    list[int]: "must be a list of whole numbers, as in [1,2]",
    list[str]: "must be a list of names, as in [a,b]",
    dict[str, Any]: "must be names with values, as in {a: 1, b: 2}",
}
"""What the value of a setting of that type must be; any other type is a group of settings."""


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line for an error of Hydra or OmegaConf: what was given, the rule it breaks, and the remedy."""
    line = one_line(_explain(error, overrides))
    return line if len(line) <= 2 * LONGEST else f"{line[:LONGEST]} ... {line[-LONGEST // 2 :]}"


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    match error:
        case OverrideParseException():
            rule = "is not of the form key=value; put quotes around what has spaces, commas, brackets, | or ="
            return f"{error.override}: {rule}, and the shell's around the whole word"
        case MissingConfigException(missing_cfg_file=str(file)) if error.options is not None:
            group, _, name = file.rpartition("/")
            if group == "hydra/launcher" and name in LAUNCHERS:
                return f"{group}={name}: needs packages that are not installed; pip install 'gated-nas[sweep]'"
            return f"{group}={name}: there is no such choice; choose one of {', '.join(error.options)}"
        case HydraException(__cause__=OmegaConfBaseException() as cause):
            return _explain_value(cause, overrides)
        case OmegaConfBaseException():
            return _explain_value(error, overrides)
        case OverflowError():  # a whole number for a setting that is a float; OmegaConf lets it through
            key = str(error).partition("full_key: ")[2].partition("\n")[0] or "the command line"
            given = max((override for override in overrides if _is_about(override, key)), key=len, default=key)
            return f"{given}: is a number too large for a float; write a smaller one"
    text = " ".join(str(error).split())  # Hydra's own sentences: they name the remedy, over several lines
    given = next((override for override in overrides if override in text), "the command line")
    return f"{given}: {text}; {SEE_ALL}"


def parsed(words: Sequence[str]) -> tuple[Namespace, list[str]]:
    """What Hydra makes of a command line: its flags with the overrides, and the words that it does not understand.

    Raises:
        ArgumentError: a flag has a wrong value, or none.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    return parser.parse_known_args(words)


def is_sweep(words: Sequence[str]) -> bool:
    """Whether a command line asks for several runs: ``-m`` in any of its spellings, or Hydra's own setting."""
    try:
        known, _ = parsed(words)
    except ArgumentError:  # explain_flags says why
        return False
    return bool(known.multirun) or any(word.lstrip("+").startswith("hydra.mode=") for word in words)


def explain_flags(words: Sequence[str]) -> str | None:
    """One line for a command line that Hydra's parser would answer with its usage; None if it would not."""
    try:
        _, rest = parsed(words)
    except ArgumentError as error:
        return f"{error.argument_name}: {error.message}; --hydra-help lists the flags"
    if rest and rest[0].startswith("-"):
        return f"{rest[0]}: there is no such flag; --hydra-help lists them"
    return f"{rest[0]}: stands behind a flag and other settings; write flags such as -m first" if rest else None


def _explain_value(error: OmegaConfBaseException, overrides: Sequence[str]) -> str:
    """One line for an error that OmegaConf found at a key."""
    key = error.full_key or "the command line"
    given = max((override for override in overrides if _is_about(override, key)), key=len, default=key)
    types = get_type_hints(error.object_type) if isinstance(error.object_type, type) else {}
    first_line = str(error).strip().split("\n")[0]
    match error:
        case MissingMandatoryValue():
            return f"{key}=???: must be given; write {key}=VALUE"
        case ConfigAttributeError() | ConfigKeyError():
            group = key.partition(".")[0]
            if not types and group != key:  # space.widths=[8] where no space is chosen
                return f"{given}: no {group} is chosen that could have this setting; write {group}=... before it"
            return f"{given}: there is no setting {key}; choose one of {', '.join(types)}; {SEE_ALL}"
        case ConfigTypeError():
            return f"{given}: {first_line}; to change a setting write KEY=VALUE"
        case InterpolationResolutionError():
            return f"{given}: {first_line}; put quotes and a backslash before a $ that is meant as such"
        case ValidationError() if error.key in types:
            rule = KINDS.get(_given(types[error.key]), f"is a group of settings, set one by one as {key}.NAME=VALUE")
            return f"{given}: {rule}; {SEE_ALL}"
    return f"{given}: {first_line}; {SEE_ALL}"


def _given(kind: Any) -> Any:
    """The type of a setting where it is not null."""
    inner = [one for one in get_args(kind) if one is not NoneType]
    return inner[0] if NoneType in get_args(kind) and len(inner) == 1 else kind


def _is_about(override: str, key: str) -> bool:
    name = override.lstrip("+~").split("=")[0]
    return f"{name}.".startswith(f"{key}.") or f"{key}.".replace("[", ".").startswith(f"{name}.")
