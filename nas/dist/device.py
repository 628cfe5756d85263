"""Where and how precisely a process computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from nas.errors import SettingError


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device called ``name``.

    Args:
        name: ``train.device``: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``, which is CUDA if available, else the CPU.
        local_rank: number of this process on its machine, if there are several; each takes the GPU of that number.

    Raises:
        SettingError: there is no such device, or there are fewer GPUs than processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    elif name.startswith("cuda:") and local_rank is not None:
        rule = "is one GPU, but each process takes one of its own"
        raise SettingError("train.device", name, rule, "write train.device=cuda, and CUDA_VISIBLE_DEVICES to choose")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingError("train.device", name, "is not a device", "write auto, cpu or cuda") from None
    available = {"cpu": 1, "cuda": torch.cuda.device_count()}
    if (device.index or 0) >= available.get(device.type, 0):
        raise SettingError("train.device", name, "there is none on this machine", "write train.device=auto")
    return device


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Autocast on ``device`` to bfloat16 if ``precision`` is ``bf16``; nothing for ``float32``."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
