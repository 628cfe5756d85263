"""Checkpoints: written whole or not at all, the last two kept.

Reading the file runs no code, whoever wrote it (:mod:`nas.train.sound`). The factory that it names, of a custom space,
is called only where the user names it too: on the command line of a run that goes on, or to ``load_trained``.
"""

from __future__ import annotations

import io
import pickle
import platform
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

import nas
from nas.errors import CheckpointError, NasWarning
from nas.files import UNFINISHED, write_whole
from nas.train.sound import check_archive, check_state

FORMAT = 1
KEPT = 2
# What zipfile, pickletools and torch raise on bytes that are something else; MemoryError on sizes that are made up.
_DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    OSError,
    struct.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


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
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "versions": versions(), "step": step, **state}, buffer)
    try:
        for unfinished in folder.glob("step_*" + UNFINISHED):  # of a process that was killed
            unfinished.unlink()
        write_whole(path, buffer.getbuffer())
    except OSError as error:
        rule = f"could not be written ({error.strerror}); the checkpoint before it is intact"
        raise CheckpointError("checkpoint", path, rule, "make room and start the same command again") from error
    for old in saved(folder)[KEPT:]:
        old.unlink()
    return path


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint: tensors and plain data only, every byte checked against its checksum.

    Reading the file runs no code. Its settings may name the factory of a custom space, which is not looked at here; nor
    is whether the parts belong to each other (:mod:`nas.train.fits`).

    Raises:
        CheckpointError: it is damaged, from another version of the format, or no checkpoint.
    """
    try:
        check_archive(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        rule = f"is damaged ({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})"
        raise CheckpointError("checkpoint", path, rule, "use another one, or delete it") from error
    found = state.get("format") if isinstance(state, dict) else None
    if type(found) is not int:
        raise CheckpointError("checkpoint", path, "is no checkpoint of a run", "name one that nas-train has written")
    if found != FORMAT:
        rule = f"has format {found}, this version reads {FORMAT}"
        raise CheckpointError("checkpoint", path, rule, "use the version that wrote it")
    try:
        check_state(state, path.stat().st_size)
    except ValueError as error:
        raise CheckpointError("checkpoint", path, f"is damaged ({error})", "use another one, or delete it") from error
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
