"""Where and how precisely a process computes."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch

from nas.errors import SettingError
from nas.settings import TrainSettings


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


def set_cuda_flags(device: torch.device, train: TrainSettings) -> None:
    """Let this process compute on a GPU as ``train.tf32`` and ``train.cudnn_benchmark`` say; nothing on a CPU.

    torch's own default lets convolutions, and no other products, be TF32.
    """
    if device.type != "cuda":
        return
    with warnings.catch_warnings():
        # torch 2.9 recommends newer names, fp32_precision; but once they are used, torch.compile and cudnn.flags raise
        # errors where they read these (https://github.com/pytorch/pytorch/issues/166387).
        warnings.filterwarnings("ignore", "Please use the new API settings")
        torch.backends.cudnn.allow_tf32 = train.tf32
        torch.set_float32_matmul_precision("high" if train.tf32 else "highest")
    torch.backends.cudnn.benchmark = train.cudnn_benchmark
    torch.backends.cudnn.deterministic = not train.cudnn_benchmark
