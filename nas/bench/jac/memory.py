"""How much memory a case takes: ``python -m nas.bench.jac.memory CASE VARIANT THREADS`` prints it as JSON.

A process of its own for each measurement, because a process keeps the memory that an earlier call has used. What counts
is the peak of the resident size during the call above its size before. Nothing of the call is warmed up; but torch
imports up to 190 MB of its own modules when torch.func is used for the first time, which is not the method's memory, so
torch.func is used once before, on single numbers.
"""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.func import jacrev, jvp, vjp, vmap

from nas.bench.jac.cases import CNN, MLP, Calls, kernel, products


def _chain() -> Calls:
    from nas.bench.loop import memory_calls  # which measures with this module

    return memory_calls()


CASES: dict[str, Callable[[], Calls]] = {
    "gram": lambda: products(1_000_000, 10),
    "cnn": lambda: kernel(CNN, 32),
    "mlp": lambda: kernel(MLP, 64),
    "chain": _chain,
    "tiny": lambda: products(1_000, 2),  # for tests
}
MB = 10**6


def peak_mb(case: str, variant: str, threads: int) -> float:
    """Peak resident size of a fresh process during the call, in MB (10^6 bytes) above its size before."""
    command = [sys.executable, "-m", "nas.bench.jac.memory", case, variant, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: float = json.loads(done.stdout)["peak_mb"]
    return result


def main() -> None:
    """Measure one call in this process."""
    case, variant, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    call = CASES[case]()[variant]
    _use_torch_func()
    _return_freed_memory()
    _reset_peak()
    before = _resident_mb()
    call()
    print(json.dumps({"peak_mb": _peak_mb() - before}))


def _use_torch_func() -> None:
    one = torch.ones(1)
    vmap(jacrev(torch.sin))(one)
    vmap(lambda row: jvp(torch.sin, (one,), vjp(torch.sin, one)[1](row))[1])(one[None])


def _return_freed_memory() -> None:
    # Memory that was freed while the case was made would be used again without counting.
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> None:
    """Let Linux forget the peak so far (proc(5), clear_refs); elsewhere the peak includes the preparation."""
    if platform.system() == "Linux":
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    if platform.system() == "Linux":
        return _status_mb("VmHWM")
    import resource  # Windows has none

    unit = 1 if platform.system() == "Darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def _resident_mb() -> float:
    # Where the peak cannot be reset, what counts is how far the call pushes it.
    return _status_mb("VmRSS") if platform.system() == "Linux" else _peak_mb()


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / MB


if __name__ == "__main__":
    main()
