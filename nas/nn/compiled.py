"""The parts of a supernet that hold no gate, compiled: each kind of part once, when it first runs.

Three things would make compiled branches slower than eager ones. ``torch.compile`` keeps what it has compiled with a
function's code, and all modules share ``Module.__call__``: so each kind gets code of its own, where nothing else has to
be looked through. What comes with a second shape would be compiled for all shapes, without vector instructions:
``dynamic=False``. And Inductor would save the mask of a branch's last ReLU for the backward pass as booleans, which its
C++ writes and reads one by one: see :func:`_no_masks`.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import NasWarning, require
from nas.nn.blocks import BlockConv2d, BlockLinear
from nas.nn.gated import GatedBlock

CACHE = "~/.cache/gated-nas/inductor"
"""Where compiled code stays for later runs, unless the environment variable ``TORCHINDUCTOR_CACHE_DIR`` says."""
_GATED = (GatedBlock, BlockLinear, BlockConv2d)
_LISTS = (nn.ModuleList, nn.ModuleDict)  # nobody calls them


def compile_branches(supernet: nn.Module) -> None:
    """Compile the branches of ``supernet``, and what else holds no gate, each kind of part when it first runs.

    Parts that are built alike and get tensors of one shape share the compiled code, which takes their weights as
    inputs; it also stays on disk for later runs. It computes what the part computes, to rounding, and draws the same
    random numbers. It serves passes with gradients alone: without, and in copies of the network (evaluation,
    extraction), modules run as they are. So does a single layer of torch's, an AvgPool2d excepted, and what cannot be
    compiled, which is named once in a :class:`NasWarning`.

    Source: Ansel et al., *PyTorch 2* (ASPLOS 2024).

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
        # What Module.compile sets and copies leave out; that would compile the code that all modules share.
        part._compiled_call_impl = _Part(name, part)


def compile_s() -> float:
    """The seconds that this process has spent compiling."""
    if "torch._dynamo" not in sys.modules:
        return 0.0
    from torch._dynamo.utils import calculate_time_spent

    return calculate_time_spent().get("total_wall_time", 0.0)


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The largest modules inside ``module`` that hold no gate, apart from those that do not gain."""
    for name, child in module.named_children():
        if isinstance(child, _LISTS) or any(isinstance(inner, _GATED) for inner in child.modules()):
            yield from _parts(child, f"{prefix}{name}.")
        elif _gains(child):
            yield prefix + name, child


def _gains(part: nn.Module) -> bool:
    """A layer of torch's is one kernel already; Inductor's is faster for AvgPool2d, and half as fast for MaxPool2d."""
    if isinstance(part, nn.AvgPool2d) or next(part.children(), None) is not None:
        return True
    return not type(part).__module__.startswith("torch.") and next(part.parameters(), None) is not None


def can_compile(device: torch.device | str = "cpu") -> bool:
    """Whether there is what Inductor needs: a C++ compiler on a CPU."""
    return torch.device(device).type != "cpu" or shutil.which(os.environ.get("CXX", "g++")) is not None


def _call(part: nn.Module, *inputs: object, **named: object) -> Any:
    return part._call_impl(*inputs, **named)


@cache
def _compiled(built: tuple[object, ...], shape: torch.Size, device: str) -> Callable[..., Any]:
    """The function of all parts that are built so, for inputs of one shape."""
    code = _call.__code__.replace(co_name=f"part{_compiled.cache_info().currsize}")
    function = FunctionType(code, _call.__globals__)
    return torch.compile(function, fullgraph=True, dynamic=False, options=_options(device))


class _Part:
    """What a call of a part runs."""

    def __init__(self, name: str, part: nn.Module) -> None:
        from torch._dynamo.exc import TorchDynamoException

        self._name, self._part = name, part
        self._built = repr(part), *(parameter.shape for parameter in part.parameters())
        self._works, self._errors = True, TorchDynamoException

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self._works and torch.is_grad_enabled() and inputs and type(x := inputs[0]) is Tensor and not x.is_meta:
            try:
                return _compiled(self._built, x.shape, x.device.type)(self._part, *inputs, **named)
            except self._errors as error:  # it comes before anything is computed
                self._works, reason = False, str(error).strip().partition("\n")[0]
                text = f"train.compile=branches: {self._name} cannot be compiled and runs as it is ({reason})"
                warnings.warn(text, NasWarning, stacklevel=2)
        return self._part._call_impl(*inputs, **named)


def _options(device: str) -> dict[str, Any]:
    """What differs from Inductor's defaults: the place to switch on CUDA graphs, for example."""
    options: dict[str, Any] = {"fallback_random": True}  # dropout as in the eager network
    if device == "cpu":
        options["joint_custom_post_pass"] = _no_masks()
    return options


def _no_masks() -> Any:
    """A pass over the graph of forward and backward that keeps the masks of ReLUs out of what is saved between them.

    They are found again from the output, which is kept anyway, as the input of what follows.
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass
    from torch.utils.checkpoint import CheckpointPolicy

    class NoMasks(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            for node in graph.nodes:
                if node.target is torch.ops.aten.le.Scalar:
                    node.meta["recompute"] = CheckpointPolicy.PREFER_RECOMPUTE

        def uuid(self) -> str:
            return "gated-nas: no masks, 1"

    return NoMasks()
