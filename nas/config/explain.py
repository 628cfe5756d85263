"""What went wrong with a command line, in one line that says how to get it right."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

SEE_ALL = "--cfg job prints all settings, --help the groups"


def explain(error: HydraException | OmegaConfBaseException, overrides: Sequence[str]) -> str:
    """One line for an error of Hydra or OmegaConf: what was given, the rule it breaks, and the remedy."""
    given = _blamed(error, overrides)
    first = str(error).strip().splitlines()[0]
    match error:
        case OverrideParseException():
            return f"{error.override}: is not of the form key=value; quote what has spaces, commas or brackets"
        case MissingConfigException() if error.options is not None and error.missing_cfg_file:
            group, _, name = error.missing_cfg_file.rpartition("/")
            return f"{group}={name}: there is no such choice; choose one of {', '.join(error.options)}"
        case MissingMandatoryValue():
            key = error.full_key or str(error.key)
            return f"{key}=???: must be given; write {key}=VALUE"
        case ConfigCompositionException() if "Could not override" in first:
            key = re.findall(r"'([^']*)'", first)[0]
            cause = str(error.__cause__ or "").splitlines()
            if cause and "not in" not in cause[0]:
                return f"{given or key}: {_plain(cause[0])}; {SEE_ALL}"
            return f"{given or key}: there is no setting {key}; {SEE_ALL}"
    deeper = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    return f"{given or 'config'}: {_plain(str(deeper or error).strip().splitlines()[0])}; {SEE_ALL}"


def _blamed(error: Exception, overrides: Sequence[str]) -> str | None:
    """The override that the error is about, if it names one."""
    text = f"{error} {error.__cause__ or ''}"
    named = re.findall(r"full_key: (\S+)|override '?([\w.@/]+)|override ([\w.@/]+)=", text)
    keys = [part for groups in named for part in groups if part]
    for override in overrides:
        if any(override.lstrip("+~").split("=")[0] == key for key in keys):
            return override
    return None


def _plain(message: str) -> str:
    """OmegaConf's sentence without its Python."""
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", message):
        kind = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(match[2], match[2])
        return f"'{match[1]}' is not {kind}"
    return message
