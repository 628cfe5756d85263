"""Where a run computes."""

from __future__ import annotations

import torch

from nas.errors import SettingError


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device of that name; ``auto`` takes CUDA where there is one.

    Args:
        name: ``train.device``.
        local_rank: of a process beside others on this machine, each of which takes a GPU of its own.

    Raises:
        SettingError: there is no such device, or fewer than processes.
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
