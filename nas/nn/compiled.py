"""The parts of a supernet that hold no gate, compiled: each kind of part once, when it first runs."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import NasWarning, require
from nas.nn.blocks import BlockConv2d, BlockLinear
from nas.nn.gated import GatedBlock
from nas.nn.recorded import recorded
from nas.signals import STOPS

CACHE = "~/.cache/gated-nas/inductor"
"""Where compiled code stays for later runs, unless the environment variable ``TORCHINDUCTOR_CACHE_DIR`` says."""
_GATED = (GatedBlock, BlockLinear, BlockConv2d)
_OURS = "torch.nn.modules.", "nas.nn.", "nas.space."
_EVERY = frozenset(vars(nn.Module()))
_PLAIN = (int, float, str, tuple, type(None))
_kinds: dict[tuple[object, ...], Callable[..., Tensor] | None] = {}
"""What this process has compiled; None for what could not be."""
_numbers: dict[tuple[object, ...], int] = {}
"""One for all parts that are built alike."""
_seconds = 0.0


def compile_branches(supernet: nn.Module) -> None:
    """Compile the branches of ``supernet``, and what else holds no gate, each kind of part when it first runs.

    A part is the largest module that is made of layers of torch and of this package: those of other classes may do what
    a compiler does not see, and run as they are. So does a single layer of torch's, an AvgPool2d excepted, and what
    cannot be compiled or draws random numbers (dropout), which is named once in a :class:`NasWarning`.

    Parts that are built alike and get tensors of one shape share the compiled code, which takes their weights as
    inputs; it also stays on disk for later runs. It computes what the part computes, to rounding; attributes count as
    they are now. It serves passes with gradients alone: without, and in copies of the network (evaluation, extraction),
    modules run as they are.

    Args:
        supernet: on the device on which it is trained.

    Raises:
        SettingError: there is no C++ compiler, and the network is on the CPU.
    """
    device = next((parameter.device for parameter in supernet.parameters()), torch.device("cpu"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(CACHE).expanduser()))
    rule, remedy = "needs a C++ compiler on a CPU", "install g++, name another one in CXX, or set train.compile=none"
    require(can_compile(device), "train.compile", "branches", rule, remedy)
    for name, part in _parts(supernet):
        part._compiled_call_impl = _Part(name, part)  # what Module.compile sets, and what copies leave out


def compile_s() -> float:
    """The seconds that this process has spent compiling."""
    return _seconds


def can_compile(device: torch.device | str = "cpu") -> bool:
    """Whether there is what Inductor needs: a C++ compiler on a CPU."""
    return torch.device(device).type != "cpu" or shutil.which(os.environ.get("CXX", "g++")) is not None


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)) or not all(map(_compiles, child.modules())):
            yield from _parts(child, f"{prefix}{name}.")
        elif _gains(child):
            yield prefix + name, child


def _compiles(module: nn.Module) -> bool:
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return type(module).__module__.startswith(_OURS) and not isinstance(module, _GATED) and not any(hooks)


def _gains(part: nn.Module) -> bool:
    """A layer of torch's is one kernel already; Inductor's is faster for AvgPool2d, and half as fast for MaxPool2d."""
    if isinstance(part, nn.AvgPool2d) or next(part.children(), None) is not None:
        return True
    return not type(part).__module__.startswith("torch.") and next(part.parameters(), None) is not None


class _Part:
    """What a call of a part runs."""

    def __init__(self, name: str, part: nn.Module) -> None:
        self._name, self._part, self._inner = name, part, list(part.modules())
        self._parameters, self._buffers = list(part.parameters()), list(part.buffers())
        shapes = [(tensor.shape, tensor.dtype) for tensor in (*self._parameters, *self._buffers)]
        # A module or a tensor that is used twice is one and the same: which name is which counts.
        modules, tensors = _alike(part.named_modules(remove_duplicate=False)), _alike(_tensors(part))
        built = *map(_attributes, self._inner), modules, tensors, *shapes
        self._number = _numbers.setdefault(built, len(_numbers))

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and len(inputs) == 1 and not named and type(x := inputs[0]) is Tensor:
            modes = [module.training for module in self._inner]
            weights = [(parameter.requires_grad, parameter.stride()) for parameter in self._parameters]
            about = x.shape, x.stride(), x.dtype, x.device, x.requires_grad, torch.get_num_threads()
            kind = (self._number, *about, torch.is_autocast_enabled(x.device.type), *modes, *weights)
            if kind not in _kinds:
                _kinds[kind] = self._compiled(x)
            if (run := _kinds[kind]) is not None:
                return run(*self._parameters, x, *self._buffers)
        return self._part._call_impl(*inputs, **named)

    def _compiled(self, x: Tensor) -> Callable[..., Tensor] | None:
        global _seconds
        if x.is_meta or not any(tensor.requires_grad for tensor in (x, *self._parameters)):
            return None
        began = perf_counter()
        # A terminal's Ctrl-C reaches the compiler that Inductor starts, too, unless it inherits that they wait.
        waiting = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            return recorded(copy.deepcopy(self._part), x)
        except (RuntimeError, OSError) as error:  # OSError: of the folder for compiled code
            reason = str(error).strip().partition("\n")[0]
            text = f"train.compile=branches: {self._name} cannot be compiled and runs as it is ({reason})"
            warnings.warn(text, NasWarning, stacklevel=2)
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, waiting)
            _seconds += perf_counter() - began


def _tensors(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from part.named_parameters(remove_duplicate=False)
    yield from part.named_buffers(remove_duplicate=False)


def _alike(named: Iterable[tuple[str, object]]) -> tuple[tuple[str, int], ...]:
    """Each name with the number of what it names: the same number for the same object."""
    numbers: dict[int, int] = {}
    return tuple((name, numbers.setdefault(id(value), len(numbers))) for name, value in named)


def _attributes(module: nn.Module) -> tuple[object, ...]:
    """The class of ``module`` and what it was given: what is no plain value is like itself alone."""
    own = [(key, value) for key, value in vars(module).items() if key not in _EVERY]
    return type(module), *((key, repr(value) if isinstance(value, _PLAIN) else id(value)) for key, value in own)
