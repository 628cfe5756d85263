"""What went wrong with a command line, in one line that says how to get it right."""

from __future__ import annotations

import re
from argparse import ArgumentError, Namespace
from collections.abc import Sequence
from types import NoneType
from typing import Any, get_args, get_type_hints

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import Mark, MarkedYAMLError

from nas.config.meant import SEE_ALL, unknown
from nas.errors import LONGEST, did_you_mean, one_line
from nas.settings import GROUPS

LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")
"""Choices of hydra/launcher that the extra ``sweep`` brings."""
KINDS: dict[Any, str] = {
    int: "must be a whole number",
    float: "must be a number",
    bool: "must be true or false",
    str: "must be a name or a text",
    int | str: "must be auto, or a whole number",
    bool | str: "must be auto, true or false",
    list[int]: "must be a list of whole numbers, as in [1,2]",
    list[str]: "must be a list of names, as in [a,b]",
    dict[str, list[str]]: "must be names with lists of candidates, as in {layer*.conv2: [keep, conv1]}",
    dict[str, Any]: "must be names with values, as in {a: 1, b: 2}",
}
"""What the value of a setting of that type must be; any other type is a group of settings."""


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line for an error of Hydra or OmegaConf: what was given, the rule it breaks, and the remedy."""
    line = one_line(_explain(error, overrides))
    return line if len(line) <= 2 * LONGEST else f"{line[:LONGEST]} ... {line[-LONGEST // 2 :]}"


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    match error:
        case OverrideParseException() if re.fullmatch(r"[\w.]+", error.override):
            return f"{error.override}: is not of the form key=value; write {error.override}=VALUE"
        case OverrideParseException():
            rule = "is not of the form key=value; put quotes around what has spaces, commas, brackets, | or ="
            return f"{error.override}: {rule}, and the shell's around the whole word"
        case MissingConfigException(missing_cfg_file=str(file)) if error.options is not None:
            group, _, name = file.rpartition("/")
            if group == "hydra/launcher" and name in LAUNCHERS:
                return f"{group}={name}: needs packages that are not installed; pip install 'gated-nas[sweep]'"
            return f"{group}={name}: there is no such choice; {did_you_mean(name, error.options)}"
        case MissingConfigException(missing_cfg_file=str(file)) if "primary config" in str(error):
            return f"--config-name={file}: there is no such file; leave it out, or name one in --config-dir=FOLDER"
        case MissingConfigException(missing_cfg_file=str(file)) if file.startswith("schema/"):
            name = file.removeprefix("schema/")
            return f"--config-name={name}: is the file of another command; write nas-{name}"
        case HydraException(__context__=OmegaConfBaseException() as cause):
            return _explain_value(cause, overrides, _file(error))
        case OmegaConfBaseException():
            return _explain_value(error, overrides)
        case MarkedYAMLError(problem_mark=Mark() as mark):
            return f"{mark.name}: is no YAML in line {mark.line + 1} ({error.problem}); mend it"
        case OverflowError():  # a whole number for a setting that is a float; OmegaConf lets it through
            key = str(error).partition("full_key: ")[2].partition("\n")[0] or "the command line"
            given = max((override for override in overrides if _is_about(override, key)), key=len, default=key)
            return f"{given}: is a number too large for a float; write a smaller one"
    text = " ".join(str(error).split())  # Hydra's own sentences: they name the remedy, over several lines
    given = _file(error) or next((override for override in overrides if override in text), "the command line")
    if found := re.search(r"Could not override '(.*?)'\. No match", text):
        if found[1] in GROUPS:
            return f"{given}: this command has no group {found[1]}; --help lists its groups and experiments"
        return f"{given}: is a file that changes others; write a + before it, +{given}"
    if found := re.search(r"Multiple values for (\w+)\.", text):
        given = next((word for word in overrides if word.startswith(f"+{found[1]}=")), given)
        return f"{given}: is chosen already; write it without the +"
    if found := re.search(r"Additional config directory '(.*?)' not found|Primary config (?:module|directory)", text):
        return f"{given}: there is no such folder; --config-dir=FOLDER names one with config files of your own"
    if text.startswith("Ambiguous value"):
        return f"{given}: is several values; add -m for a run of each, or write a list in brackets, as in [1,2]"
    return f"{given}: {text}; {SEE_ALL}"


def parsed(words: Sequence[str]) -> tuple[Namespace, list[str]]:
    """What Hydra makes of a command line: its flags with the overrides, and the words that it does not understand.

    Raises:
        ArgumentError: a flag has a wrong value, or none.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    return parser.parse_known_args(words)


def plain_keys(word: str) -> str:
    """``word`` without quotes around the names in ``space.gated={"layer[12].conv2": [keep]}``, its brackets escaped.

    Hydra's grammar has no quotes there, and people write them as in JSON; a bracket needs a backslash. Names of code
    that is trusted, ``factory=a:B,c:d``, are one value and no sweep.
    """
    if re.fullmatch(r"factory=[\w.:-]+(,[\w.:-]+)+", word):
        return word.replace("=", "='") + "'"
    if not re.match(r"\+*space\.gated=", word):
        return word

    def plain(found: re.Match[str]) -> str:
        return found[1] + re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", found[3])

    return re.sub(r"""([{,]\s*)(["']?)([^"'\s:,{}]+)\2(?=\s*:)""", plain, word)


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


def _explain_value(error: OmegaConfBaseException, overrides: Sequence[str], file: str = "") -> str:
    """One line for an error that OmegaConf found at a key, of a word or of the file that one has chosen."""
    key = error.full_key or "the command line"
    given = file or max((override for override in overrides if _is_about(override, key)), key=len, default=key)
    types = get_type_hints(error.object_type) if isinstance(error.object_type, type) else {}
    first_line = str(error).strip().split("\n")[0]
    if given == key:  # OmegaConf may say no more than the name of a module
        gated = rf"\+*space\.gated\..*{re.escape(key)}="
        given = next((override for override in overrides if re.match(gated, override)), key)
    if re.match(r"\+*space\.gated[.=]", given):
        return f"{given}: {KINDS[dict[str, list[str]]]}; {SEE_ALL}"
    match error:
        case MissingMandatoryValue():
            return f"{key}=???: must be given; write {key}=VALUE"
        case ConfigAttributeError() | ConfigKeyError():
            root = error.parent_node._get_root()
            schema = OmegaConf.get_type(root)
            if file.startswith(f"{key}="):  # what it sets has landed under its own name
                return f"{given}: must begin with the line # @package _global_; add it to the file"
            if schema is None or key.startswith("hydra."):
                return f"{given}: there is no setting {key}; choose one of {', '.join(types)}; {SEE_ALL}"
            asked = given.lstrip("+~").split("=")[0]
            asked = asked if asked.startswith(key) else key
            return f"{given}: {'; '.join(unknown(asked, schema, _chosen(root)))}"
        case ConfigTypeError():
            return f"{given}: {first_line}; to change a setting write KEY=VALUE"
        case InterpolationResolutionError():
            return f"{given}: {first_line}; put quotes and a backslash before a $ that is meant as such"
        case ValidationError() if error.key in types:
            rule = KINDS.get(_given(types[error.key]), f"is a group of settings, set one by one as {key}.NAME=VALUE")
            return f"{given}: {rule}; {SEE_ALL}"
    return f"{given}: {first_line}; {SEE_ALL}"


def _file(error: Exception) -> str:
    """The word that chose the file in which Hydra found an error, as in ``experiment=mine``; empty if it is no file."""
    found = re.match(r"In '(?:(.+)/)?(.+?)':", str(error))
    return f"{(found[1] or '--config-name').removeprefix('schema/')}={found[2]}" if found else ""


def _chosen(root: DictConfig) -> dict[str, str]:
    """The choice of each group in a config; a group may have none."""
    names = {group: OmegaConf.select(root, f"{group}.name") for group in GROUPS}
    return {group: name for group, name in names.items() if name}


def _given(kind: Any) -> Any:
    """The type of a setting where it is not null."""
    inner = [one for one in get_args(kind) if one is not NoneType]
    return inner[0] if NoneType in get_args(kind) and len(inner) == 1 else kind


def _is_about(override: str, key: str) -> bool:
    name = override.lstrip("+~").split("=")[0]
    return f"{name}.".startswith(f"{key}.") or f"{key}.".replace("[", ".").startswith(f"{name}.")
