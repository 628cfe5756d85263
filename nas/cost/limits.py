"""How much memory a process may take: what its resource limits, its cgroups, the machine and a GPU allow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

UNLIMITED = 2**60
"""Bytes that mean no limit. cgroups of the first version write a number near 2^63 there."""


class MemoryLimit(NamedTuple):
    """So many ``bytes`` for ``sharing`` processes together, each of which has ``used`` some; ``chosen`` by somebody."""

    name: str
    bytes: int
    used: int
    sharing: int = 1
    chosen: bool = True
    on: str = "cpu"


def memory_limits(device: torch.device, here: int = 1, root: Path = Path("/")) -> list[MemoryLimit]:
    """The limits on each of ``here`` processes: ``ulimit -v``, cgroups, the machine's memory, and that of a GPU.

    ``ulimit -v`` counts what is mapped and not only what is used: some GB for torch alone. A system without ``proc``
    has no limits. Pages of files, such as libraries and mapped images, are not counted as used: the kernel drops them
    when it needs the memory. ``root`` is where ``proc`` and ``sys`` are; another folder is for tests.
    """
    status, limits = _read(root / "proc/self/status"), []
    resident, mapped = (1024 * _number(status, name, 0) for name in ("RssAnon", "VmSize"))
    machine = 1024 * _number(_read(root / "proc/meminfo"), "MemTotal", 0)
    cgroup = min(_cgroup_limits(root), default=UNLIMITED)
    if (address := _number(_read(root / "proc/self/limits"), "Max address space")) < UNLIMITED:
        limits.append(MemoryLimit("ulimit -v", address, mapped))
    if cgroup < (machine or UNLIMITED):
        limits.append(MemoryLimit("the cgroup limit", cgroup, resident, here))
    if machine:
        limits.append(MemoryLimit("this machine's memory", machine, resident, here, chosen=False))
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        used = total - free - torch.cuda.memory_reserved(device)
        limits.append(MemoryLimit(f"the memory of {device}", total, used, chosen=False, on="cuda"))
    return limits


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Of this process's cgroup and of those above it, in both versions of cgroups."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        # In a container the path may be that of the host, and only the top, which is the container's own, is there.
        inside = PurePosixPath(path.lstrip("/"))
        for place in (inside, *inside.parents):
            yield _number(_read(mount / place / ("memory.limit_in_bytes" if controllers else "memory.max")))


def _number(text: str, name: str = "", missing: int = UNLIMITED) -> int:
    found = re.search(rf"^{name}:?\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else missing


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # this system has no such file
        return ""
