"""The checkpoint file: safetensors, with everything that is no tensor as JSON in its metadata.

A checkpoint is a dictionary of parts. The tensors of a part that is a dictionary stand in the file as ``part/name``;
what else is in it, and every other part, is a JSON text under the part's name in the metadata. Reading such a file
runs no code. Others read it with ``safetensors.safe_open(path, "pt")``.
"""

from __future__ import annotations

import json
import platform
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nas
from nas.errors import CheckpointError, NasWarning
from nas.files import UNFINISHED, write_whole
from nas.sealed import DTYPES, seal, unseal
from nas.seeds import STREAMS
from nas.settings.plain import fits

FORMAT = 2
"""1 was a pickle of torch, ``step_*.pt``."""
KEPT = 2
PARTS: dict[str, Any] = {
    "format": int,
    "versions": dict[str, str],
    "step": int,
    "settings": dict,
    "initial": str,
    "model": dict,
    "modules": dict[str, int | None],
    "optimizer": dict,
    "gate": dict,
    "track": dict,
    "metrics_bytes": int,
    "complex": list[str],
}
"""What every file has, with the types."""


def versions() -> dict[str, str]:
    """What the numbers of a run depend on."""
    return {"gated-nas": nas.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


def saved(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, newest first.

    Raises:
        CheckpointError: all checkpoints have the format of an older version.
    """
    found = sorted(folder.glob("step_*.safetensors"), reverse=True)
    if not found and (old := sorted(folder.glob("step_*.pt"))):
        raise _outdated("run", folder, f"its checkpoints are of an older version of gated-nas ({old[-1].name})")
    return found


def newest(path: Path | str, key: str = "checkpoint") -> Path:
    """The checkpoint that a user means by ``path``: that file, or the newest one in a run's folder, damaged or not.

    Raises:
        CheckpointError: there is none; it names the setting ``key``.
    """
    path, remedy = Path(path), "name the folder of a run of nas-train"
    if not path.exists():
        raise CheckpointError(key, path, "does not exist", remedy)
    if not path.is_dir():
        return path
    if found := saved(path):
        return found[0]
    raise CheckpointError(key, path, "has no checkpoint in it", remedy)


def _outdated(key: str, path: Path, rule: str) -> CheckpointError:
    return CheckpointError(key, path, rule, "train again with another run=NAME, or use the version that wrote it")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state`` as the checkpoint of ``step`` and drop all but the last two.

    The file is written beside its place, synced and renamed: a process that is killed in between leaves the one before.

    Args:
        folder: of the run.
        step: updates made so far.
        state: the parts: each plain data, or a dictionary of tensors and plain data.

    Raises:
        CheckpointError: the disk is full, the folder cannot be written, or something cannot be stored; the checkpoints
            before are untouched.
    """
    path = folder / f"step_{step:09d}.safetensors"
    about = {"format": FORMAT, "streams": STREAMS, "versions": versions(), "step": step}
    metadata, tensors = _taken_apart(about | state)
    try:
        content = seal(metadata, tensors)
        for unfinished in folder.glob("step_*" + UNFINISHED):  # of a process that was killed
            unfinished.unlink()
        write_whole(path, memoryview(content))
    except OSError as error:
        rule = f"could not be written ({error.strerror}); the checkpoint before it is intact"
        raise CheckpointError("checkpoint", path, rule, "make room and start the same command again") from error
    except ValueError as error:
        rule = f"would have {error}; the checkpoint before it is intact"
        raise CheckpointError("checkpoint", path, rule, "lower track.log_every") from error
    for old in saved(folder)[KEPT:]:
        old.unlink()
    return path


def check_storable(part: str, values: dict[str, Any]) -> None:
    """Refuse what no checkpoint can hold, so that a run does not learn of it at its first save.

    Raises:
        CheckpointError: a tensor is sparse or quantized, or an entry, such as what a module's ``get_extra_state``
            gives, is neither a tensor nor plain data that JSON gives back as it was.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            _encoded(f"{part}/{name}", value)
        elif value.layout != torch.strided or (value.dtype not in DTYPES and not value.is_complex()):
            rule = f"cannot hold a tensor of {value.dtype} and {value.layout}"
            raise CheckpointError("checkpoint", f"{part}/{name}", rule, "make it dense, and of plain numbers")


def _encoded(name: str, value: object) -> str:
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        if json.loads(text) == value:
            return text
    except (TypeError, ValueError, RecursionError):
        pass
    rule = f"cannot hold what is no tensor and which JSON does not give back as it is ({type(value).__name__})"
    raise CheckpointError("checkpoint", name, rule, "make it a tensor, or of texts, finite numbers, lists, dicts")


def _taken_apart(state: dict[str, Any]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a file."""
    metadata, tensors, complex_ = dict[str, str](), dict[str, Tensor](), list[str]()
    for part, values in state.items():
        plain = values
        if isinstance(values, dict):
            check_storable(part, values)
            plain = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
            for name, value in values.items():
                if isinstance(value, Tensor) and value.is_complex():
                    complex_.append(f"{part}/{name}")
                    tensors[complex_[-1]] = torch.view_as_real(value.detach().resolve_conj())
                elif isinstance(value, Tensor):
                    tensors[f"{part}/{name}"] = value.detach()
        metadata[part] = _encoded(part, plain)
    # Torch keeps a number for the format of each module's own state, beside the tensors.
    modules = {name: entry.get("version") for name, entry in getattr(state["model"], "_metadata", {}).items()}
    return {**metadata, "modules": _encoded("modules", modules), "complex": _encoded("complex", complex_)}, tensors


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint. Its tensors are mapped from the file and read when they are used.

    Reading runs no code. The settings may name the factory of a custom space, which is not looked at here; nor is
    whether the parts belong to each other, which the network, the optimizer, the gate and the tracker check.

    Raises:
        CheckpointError: it is damaged, of another version of the format, or no checkpoint.
    """
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise _outdated("checkpoint", path, "is of an older version of gated-nas")
        metadata, tensors = unseal(path)
        state = {name: _decoded(name, text) for name, text in metadata.items()}
        if type(found := state.get("format")) is int and found != FORMAT:
            rule = f"has format {found}, this version reads {FORMAT}"
            raise CheckpointError("checkpoint", path, rule, "use the version that wrote it")
        return _put_together(state, tensors)
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError("checkpoint", path, f"is damaged ({error})", "use another one, or delete it") from error


def _decoded(name: str, text: str) -> Any:
    """Plain data; numbers that are infinite, none or without end, which Python reads and JSON has not, are refused."""

    def number(digits: str) -> float:
        if len(digits) > 40 or abs(float(digits)) == float("inf"):
            raise ValueError(f"its {name} has a number without end")
        return int(digits) if digits.lstrip("-").isdigit() else float(digits)

    def constant(word: str) -> None:
        raise ValueError(f"its {name} has {word} for a number")

    return json.loads(text, parse_int=number, parse_float=number, parse_constant=constant)


def _put_together(state: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The tensors in their parts.

    Raises:
        ValueError: a part is missing or of another type.
    """
    for name, kind in PARTS.items():
        if name not in state:
            raise ValueError(f"it has no {name}")
        if not fits(state[name], kind):
            raise ValueError(f"its {name} is of another type")
    if state["step"] < 0 or state["metrics_bytes"] < 0:
        raise ValueError("its step or metrics_bytes is negative")
    for name in state.pop("complex"):
        if name not in tensors or tensors[name].shape[-1:] != (2,) or not tensors[name].is_floating_point():
            raise ValueError(f"its {name} has no complex numbers")
        tensors[name] = torch.view_as_complex(tensors[name].clone())  # aligned as complex numbers have to be
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        if not isinstance(state.get(part), dict):
            raise ValueError(f"its {name} belongs to no part")
        state[part][rest] = tensor
    weights: Any = OrderedDict(state["model"])
    weights._metadata = {name: {"version": number} for name, number in state.pop("modules").items()}
    return {**state, "model": weights}


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None if there is none at all.

    Raises:
        CheckpointError: there are some, and none can be read.

    Warns:
        NasWarning: a newer one is damaged and was passed over.
    """
    paths, damaged = saved(folder), []
    for path in paths:
        try:
            state = load(path)
        except CheckpointError as error:
            damaged.append(error)
            continue
        for newer in damaged:
            warnings.warn(f"{newer.value} {newer.rule}; going on from {path.name}", NasWarning, stacklevel=2)
        return state
    if paths:
        rule = f"none of the {len(paths)} checkpoints there can be read"
        raise CheckpointError("run", folder, rule, "take another run=NAME to begin anew")
    return None
