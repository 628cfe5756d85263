"""How much memory a process may take: what its cgroups, its resource limits and the machine allow."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED = 2**60
"""The first version of cgroups writes a number near 2^63 where there is no limit."""


@dataclass(frozen=True)
class MemoryLimit:
    """A limit, and what counts under it.

    Attributes:
        name: for a message.
        bytes: of the limit.
        process: bytes that this process takes of it already.
        each: it holds for each process by itself, not for all processes of a run together.
        set: somebody has set it; it is not just the size of the machine.
    """

    name: str
    bytes: int
    process: int
    each: bool = False
    set: bool = True


def memory_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """The limits on this process's memory: ``ulimit -v``, its cgroups' where it is below the machine's, and that.

    A limit on the address space (``ulimit -v``) counts what is mapped and not only what is used: some GB for torch
    alone.

    Args:
        root: where ``proc`` and ``sys`` lie; another folder than ``/`` is for tests.
    """
    resident, mapped = process_bytes(root)
    machine, of_group = _machine(root), cgroup_limit(root)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = [MemoryLimit("this machine's memory", machine, resident, set=False)]
    if of_group is not None and of_group < machine:
        found.insert(0, MemoryLimit("the cgroup limit", of_group, resident))
    if soft != resource.RLIM_INFINITY:
        found.insert(0, MemoryLimit("ulimit -v", soft, mapped, each=True))
    return found


def cgroup_limit(root: Path = Path("/")) -> int | None:
    """The smallest memory limit of this process's cgroup and those above it; None if there is none."""
    files = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # the second version has one tree for all
            files += _upwards(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            files += _upwards(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    limits = [int(text) for file in files if (text := _read(file).strip()).isdigit()]  # or "max"
    return min((limit for limit in limits if limit < UNLIMITED), default=None)


def available_bytes(root: Path = Path("/")) -> int | None:
    """What other processes leave of the machine's memory at the moment; None where the system does not say."""
    return _kilobytes(_read(root / "proc/meminfo"), "MemAvailable")


def process_bytes(root: Path = Path("/")) -> tuple[int, int]:
    """What this process takes now: bytes in memory, libraries included, and bytes of address space."""
    status = _read(root / "proc/self/status")
    resident, mapped = _kilobytes(status, "VmRSS"), _kilobytes(status, "VmSize")
    if resident is None or mapped is None:  # no Linux: the most it ever had
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resident = mapped = peak if sys.platform == "darwin" else 1024 * peak
    return resident, mapped


def _machine(root: Path) -> int:
    total = _kilobytes(_read(root / "proc/meminfo"), "MemTotal")
    return total if total is not None else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _upwards(mount: Path, path: str, name: str) -> list[Path]:
    # In a container the path may be that of the host, and only the top, which is the container's own, is there.
    inside = PurePosixPath(path.lstrip("/"))
    return [mount / place / name for place in (inside, *inside.parents)]


def _kilobytes(text: str, name: str) -> int | None:
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # this system has no such file
        return ""
