"""What went wrong with a command line, in one line that says how to get it right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_type_hints

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

SEE_ALL = "--cfg job prints all settings, --help the groups"
KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[int]: "a list of whole numbers, as in [1,2]",
    list[str]: "a list of names, as in [a,b]",
}


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line for an error of Hydra or OmegaConf: what was given, the rule it breaks, and the remedy."""
    match error:
        case OverrideParseException():
            rule = "is not of the form key=value; put quotes around what has spaces, commas, brackets or ="
            return f"{error.override}: {rule}"
        case MissingConfigException(missing_cfg_file=str(file)) if error.options is not None:
            group, _, name = file.rpartition("/")
            return f"{group}={name}: there is no such choice; choose one of {', '.join(error.options)}"
        case HydraException(__cause__=OmegaConfBaseException() as cause):
            return _explain_value(cause, overrides)
        case OmegaConfBaseException():
            return _explain_value(error, overrides)
    text = " ".join(str(error).split())  # Hydra's own sentences: they name the remedy, over several lines
    given = next((override for override in overrides if override in text), "the command line")
    return f"{given}: {text}; {SEE_ALL}"


def unknown(key: str, names: Sequence[str]) -> tuple[str, str]:
    """The rule and the remedy for a setting that does not exist, beside those of ``names`` that do."""
    return f"there is no setting {key}", f"choose one of {', '.join(names)}; {SEE_ALL}"


def _explain_value(error: OmegaConfBaseException, overrides: Sequence[str]) -> str:
    """One line for an error that OmegaConf found at a key."""
    key = error.full_key or "the command line"
    given = next((override for override in overrides if _is_about(override, key)), key)
    types = get_type_hints(error.object_type) if isinstance(error.object_type, type) else {}
    match error:
        case MissingMandatoryValue():
            return f"{key}=???: must be given; write {key}=VALUE"
        case ConfigAttributeError() | ConfigKeyError():
            return f"{given}: {'; '.join(unknown(key, list(types)))}"
        case InterpolationResolutionError():
            return f"{given}: {_first_line(error)}; put quotes and a backslash before a $ that is meant as such"
        case ConfigTypeError():
            return f"{given}: a setting cannot be taken away; write {key}=VALUE"
        case ValidationError():
            kind = KINDS.get(types.get(str(error.key)))
            rule = f"must be {kind}" if kind else _first_line(error)
            return f"{given}: {rule}; {SEE_ALL}"
    return f"{given}: {_first_line(error)}; {SEE_ALL}"


def _is_about(override: str, key: str) -> bool:
    name = override.lstrip("+~").split("=")[0]
    return key == name or key.startswith((f"{name}.", f"{name}["))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
