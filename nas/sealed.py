"""A safetensors file with a checksum over every byte of it: the format itself has none.

The checksum is the first entry of the metadata, ``sha256``: that of the whole file, computed with zeros for its digits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls them; its complex numbers are of one precision, so that they are left out."""
LONGEST_HEADER = 100_000_000
"""Bytes; the library reads no longer one."""
_START, _BLANK = b'{"__metadata__":{"sha256":"', b"0" * 64
"""How the header, behind eight bytes of its length, begins, and what stands for the digits of the checksum."""
_PART = 1 << 20


def seal(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bytearray:
    """The bytes of a file, the same ones for the same content; safetensors' own writer has its texts in any order.

    Args:
        metadata: texts by name; not ``sha256``.
        tensors: dense, of one of :data:`DTYPES`, on any device and with any strides.

    Raises:
        ValueError: the names, shapes and texts are more than the library reads.
    """
    aligned = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header: dict[str, object] = {"__metadata__": {"sha256": _BLANK.decode(), **metadata}}
    end = 0
    for name, tensor in aligned:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"{len(text):,} bytes beside the tensors, of at most {LONGEST_HEADER:,}")
    content = bytearray(8 + len(text) + end)
    content[: 8 + len(text)] = len(text).to_bytes(8, "little") + text
    place = 8 + len(text)
    for _, tensor in aligned:
        if count := tensor.numel():
            torch.frombuffer(content, dtype=tensor.dtype, count=count, offset=place).view(tensor.shape).copy_(tensor)
        place += count * tensor.element_size()
    digits = 8 + len(_START)
    content[digits : digits + len(_BLANK)] = sha256(content).hexdigest().encode()
    return content


def unseal(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a file. The tensors are mapped from it and read when they are used.

    Every byte is compared with the checksum before anything is made of it.

    Raises:
        ValueError: it is another file, or damaged.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        beginning, digits = file.read(8 + len(_START)), file.read(len(_BLANK))
        if beginning[8:] != _START:
            raise ValueError("it does not begin like a file of gated-nas")
        found = sha256(beginning + _BLANK)
        while part := file.read(_PART):
            found.update(part)
    if found.hexdigest().encode() != digits:
        raise ValueError("its bytes do not agree with its checksum")
    try:
        with safe_open(path, "pt") as mapped:
            tensors = {name: mapped.get_tensor(name) for name in mapped.keys()}  # noqa: SIM118
            return {name: text for name, text in mapped.metadata().items() if name != "sha256"}, tensors
    except SafetensorError as error:  # of somebody who computes checksums
        raise ValueError(str(error)) from None
