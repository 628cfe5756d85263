"""What the file of a checkpoint must be, before anything in it is used: it may come from anybody.

Reading runs no code (``weights_only``). What is looked at here besides is that nothing in it is larger than the file,
that every byte agrees with its checksum, and that the parts which others rely on are there and of their types.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_BEGINNING = b"PK\x03\x04"
_NAMES = re.compile(r"collections OrderedDict|torch\._utils _rebuild_(tensor_v[23]|parameter)|torch(\.storage)? \w+")
"""What ``torch.save`` refers to in a checkpoint of ours. ``weights_only`` allows more: a bytearray of any size."""
_FOLDER = 0x10  # of the attributes of an entry
_PLAIN = (str, bytes, int, float, type(None))
DEEPEST, MOST_ENTRIES, LONGEST_INT = 64, 10_000_000, 64
"""Of nested containers; of entries in all of them together, each as often as it is referred to; in bits."""

PARTS: dict[str, type] = {
    "versions": dict,
    "step": int,
    "settings": dict,
    "model": dict,
    "optimizer": dict,
    "gate": dict,
    "track": dict,
    "metrics_bytes": int,
}
"""The parts that every checkpoint has, with their types."""


def check_archive(path: Path) -> None:
    """Look at a file before torch does: a zip that is stored as it is, every byte as its checksum says.

    Raises:
        zipfile.BadZipFile: it is something else. Python's reader has other errors for bytes that are no zip.
    """
    with open(path, "rb") as file:
        if file.read(len(_BEGINNING)) != _BEGINNING:
            raise zipfile.BadZipFile("it does not begin like a checkpoint")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise zipfile.BadZipFile("an entry occurs twice")
        for entry in entries:  # torch compresses nothing, so that what is compressed here is not from torch
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise zipfile.BadZipFile(f"{entry.filename} is compressed, which no checkpoint is")
            if entry.is_dir() or entry.external_attr & _FOLDER:  # torch would give memory as it finds it for its bytes
                raise zipfile.BadZipFile(f"{entry.filename} is said to be a folder")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise zipfile.BadZipFile("its entries are larger than the file")
        if (broken := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"bad checksum of {broken}")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                _check_names(archive.read(entry))


def _check_names(pickled: bytes) -> None:
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL" and not _NAMES.fullmatch(str(argument)):
            raise zipfile.BadZipFile(f"it refers to {argument}, which no checkpoint does")


def check_state(state: dict[str, Any], size: int) -> None:
    """The parts are there, and of plain data and tensors that are no larger than the file.

    Args:
        state: what was read.
        size: of the file in bytes.

    Raises:
        ValueError: saying what is wrong with it.
    """
    _check_entries(state, size)
    for name, kind in PARTS.items():
        if name not in state:
            raise ValueError(f"it has no {name}")
        if not isinstance(state[name], kind) or isinstance(state[name], bool):
            raise ValueError(f"its {name} is a {type(state[name]).__name__}")
    if state["step"] < 0 or state["metrics_bytes"] < 0:
        raise ValueError("its step or metrics_bytes is negative")
    if not all(isinstance(text, str) for text in state["versions"].values()):
        raise ValueError("its versions are no texts")
    if not isinstance(state.get("initial", ""), str):
        raise ValueError("its initial is no text")
    optimizer = state["optimizer"]
    if not isinstance(optimizer.get("optimizer"), dict) or not isinstance(optimizer.get("average"), list):
        raise ValueError("its optimizer lacks moments or averages")
    if not all(isinstance(name, str) for name in state["model"]):
        raise ValueError("its model has tensors without a name")
    metadata = getattr(state["model"], "_metadata", {})  # a version a module, which torch compares with its own
    kinds = isinstance(metadata, dict) and all(isinstance(entry, dict) for entry in metadata.values())
    if not kinds or not all(isinstance(entry.get("version", 0), int | None) for entry in metadata.values()):
        raise ValueError("the versions of its modules are no numbers")


def _check_entries(state: object, size: int) -> None:
    """Plain data and dense tensors, neither deep nor large."""
    stack, count, storages = [(state, 0)], 0, dict[int, int]()
    while stack:
        value, depth = stack.pop()
        count += 1
        if depth > DEEPEST or count > MOST_ENTRIES:
            raise ValueError("it is nested too deeply or has too many entries")
        if isinstance(value, dict):
            stack += [(entry, depth + 1) for pair in value.items() for entry in pair]
        elif isinstance(value, list | tuple):
            stack += [(entry, depth + 1) for entry in value]
        elif isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise ValueError("it has a tensor that is not dense")
            storage = value.untyped_storage()
            if value.numel() * value.element_size() > storage.nbytes():
                raise ValueError(f"it has a tensor of {tuple(value.shape)} that is not stored whole")
            storages[storage.data_ptr()] = storage.nbytes()
        elif not isinstance(value, _PLAIN):
            raise ValueError(f"it has a {type(value).__name__}")
        elif isinstance(value, int) and value.bit_length() > LONGEST_INT:
            raise ValueError(f"it has a number of {value.bit_length()} bits")
    if sum(storages.values()) > size:
        raise ValueError("its tensors are larger than the file")
