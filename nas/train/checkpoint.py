"""Checkpoints: written whole or not at all, the last two kept.

Reading the file runs no code; building a custom space imports and calls the factory that it names: go on from such a
checkpoint, or load it, only if you trust it.
"""

from __future__ import annotations

import io
import os
import pickle
import platform
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

import nas
from nas.errors import CheckpointError, NasWarning

FORMAT = 1
KEPT = 2
_DAMAGED = (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError, zipfile.BadZipFile)


def versions() -> dict[str, str]:
    """What the numbers of a run depend on."""
    return {"gated-nas": nas.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


def saved(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, newest first."""
    return sorted(folder.glob("step_*.pt"), reverse=True)


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state`` as the checkpoint of ``step`` and drop all but the last two.

    It is written beside its place, synced and renamed: whoever is killed in between leaves the one before.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the checkpoints before are untouched.
    """
    path = folder / f"step_{step:09d}.pt"
    unfinished = path.with_suffix(".unfinished")
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "versions": versions(), "step": step, **state}, buffer)
    try:
        with open(unfinished, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _sync_folder(folder)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        rule = f"could not be written ({error.strerror}); the checkpoint before it is intact"
        raise CheckpointError("checkpoint", path, rule, "make room and start the same command again") from error
    for old in saved(folder)[KEPT:]:
        old.unlink()
    return path


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint: tensors and plain data only, every byte checked against its checksum.

    Reading the file runs no code. Its settings may name the factory of a custom space, which is not looked at here.

    Raises:
        CheckpointError: it is damaged, or from another version of the format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"bad checksum of {broken}")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        rule = f"is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        raise CheckpointError("checkpoint", path, rule, "use another one, or delete it") from error
    if state.get("format") != FORMAT:
        rule = f"has format {state.get('format')}, this version reads {FORMAT}"
        raise CheckpointError("checkpoint", path, rule, "use the version that wrote it")
    return state


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None where there is none at all.

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
