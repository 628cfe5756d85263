"""What may stand in place of a module of an existing network: operations with its channels, stride and shape."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.errors import NasError, SettingError, SpaceError, did_you_mean
from nas.nn import OPERATIONS, Zero, operation
from nas.nn.model import BranchSum
from nas.nn.operations import Copy

Shape = tuple[int, ...]
Candidate = str | Callable[[nn.Module], nn.Module]
"""``keep``, ``skip``, ``none``, ``linear``, ``low<r>``, an operation of :func:`nas.nn.operation`; or what makes one."""

NAMES = ("keep", "skip", "none", "linear", "low2", "low4", *OPERATIONS[1:])


@dataclass(frozen=True)
class Old:
    """A module of a network, and how it is called.

    Attributes:
        name: in the network.
        module: itself.
        takes: shape of its input, with one image.
        gives: shape of its output.
        overwritten: what comes behind it changes its output in place.
        beside: it is called with more than that tensor, which is None or False.
        dtype: of its input.
    """

    name: str
    module: nn.Module
    takes: Shape
    gives: Shape
    overwritten: bool = False
    beside: bool = False
    dtype: torch.dtype = torch.float32


def name_of(candidate: Candidate) -> str:
    """What the choice is called."""
    return candidate if isinstance(candidate, str) else getattr(candidate, "__name__", type(candidate).__name__)


def candidate(old: Old, wanted: Candidate) -> nn.Module:
    """The module that ``wanted`` names or makes, in place of ``old``, in its dtype and on its device.

    - ``keep``: the module itself, with its weights.
    - ``skip``: what comes in goes out; ``none``: zeros. Both where ``old`` keeps shapes.
    - an operation such as ``conv1`` or ``sep3``, in place of a convolution or of a block of them. Where a convolution
      crops or pads the image more than an operation does, the image is cropped or padded as much before. In place of a
      lone convolution it ends in one: what normalises and rectifies that one follows in the network.
    - ``linear``, ``low4``: in place of a Linear; the second is a product of two, of rank ``min(in, out) / 4``.

    Raises:
        SpaceError: there is no such candidate for a module of this kind, or it gives another shape.
    """
    if isinstance(wanted, nn.Module) or not (isinstance(wanted, str) or callable(wanted)):
        rule = f"is of the type {type(wanted).__name__}, and must be a name or a function of the old module"
        raise _unfit(old, wanted, rule, "write for example lambda old: nn.Conv2d(old.in_channels, old.out_channels, 1)")
    made = wanted(old.module) if callable(wanted) else _named(old, wanted)
    if not isinstance(made, nn.Module):
        raise _unfit(old, wanted, f"gives a {type(made).__name__} and no torch.nn.Module", "return a module")
    if (like := next(old.module.parameters(), None)) is not None and made is not old.module:
        made = made.to(device=like.device, dtype=like.dtype)
    gives = _shape(old, wanted, made)
    if gives != old.gives:
        remedy = "take another candidate there, or name fewer modules by the pattern"
        raise _unfit(old, wanted, f"gives {gives} for {old.takes}, where {old.name} gives {old.gives}", remedy)
    made.train(old.module.training)
    return BranchSum([made], old.name) if old.beside and made is not old.module else made


def _named(old: Old, name: str) -> nn.Module:
    module = old.module
    if name == "keep":
        return module
    if name in ("skip", "none"):
        return Zero() if name == "none" else Copy() if old.overwritten else nn.Identity()
    if isinstance(module, nn.Linear):
        return _linear(old, module, name)
    if len(old.takes) != 4 or len(old.gives) != 4:
        rule = f"is for images, and {old.name} takes {old.takes} and gives {old.gives}"
        raise _unfit(old, name, rule, "take keep, skip, none, or a callable of your own")
    try:
        if isinstance(module, nn.Conv2d):
            return _convolution(old, module, name)
        return operation(name, old.takes[1], old.gives[1], max(1, round(old.takes[2] / old.gives[2])))
    except SettingError as error:
        raise _unfit(old, name, error.rule, error.remedy.replace("choose from ", "choose from keep, none, ")) from None


def _linear(old: Old, module: nn.Linear, name: str) -> nn.Module:
    wide, out, bias = module.in_features, module.out_features, module.bias is not None
    if name == "linear":
        return nn.Linear(wide, out, bias)
    if name.startswith("low") and name[3:].isdecimal() and int(name[3:]) > 0:
        rank = max(1, min(wide, out) // int(name[3:]))
        return nn.Sequential(nn.Linear(wide, rank, bias=False), nn.Linear(rank, out, bias))
    remedy = did_you_mean(name, NAMES[:6], "take keep, skip, none, linear, low2 or low4")
    raise _unfit(old, name, f"is no candidate for a Linear such as {old.name}", remedy)


def _convolution(old: Old, module: nn.Conv2d, name: str) -> nn.Module:
    """The operation ``name`` with the channels and stride of ``module``, which ends where that ends."""
    stride = module.stride
    made = _without_norm(operation(name, module.in_channels, module.out_channels, stride[0]), module.bias is not None)
    margins: list[int] = []
    for axis, pad in reversed([*enumerate(_padding(module))]):
        surplus = 2 * pad - module.dilation[axis] * (module.kernel_size[axis] - 1)  # what it pads more than it takes
        if (old.takes[axis + 2] + surplus - 1) // stride[axis] + 1 != old.gives[axis + 2]:
            surplus = 0  # one that pads by itself, so that only the stride makes the image smaller, as in TensorFlow
        margins += [surplus // 2, surplus - surplus // 2]
    return nn.Sequential(nn.ZeroPad2d(tuple(margins)), made) if any(margins) else made  # type: ignore[arg-type]


def _padding(old: nn.Conv2d) -> tuple[int, ...]:
    if old.padding == "same":
        return tuple(dilation * (width - 1) // 2 for dilation, width in zip(old.dilation, old.kernel_size, strict=True))
    return (0, 0) if isinstance(old.padding, str) else old.padding


def _without_norm(made: nn.Module, bias: bool) -> nn.Module:
    """``made`` without the BatchNorm and ReLU that it may end in; its last convolution has a bias if ``bias``."""
    *before, last = made.children() if isinstance(made, nn.Sequential) else (made,)
    if isinstance(last, nn.Sequential):
        return nn.Sequential(*before, _without_norm(last, bias))
    layers = [layer for layer in (*before, last) if not isinstance(layer, nn.BatchNorm2d | nn.ReLU)]
    if len(layers) != 1 or not isinstance(layers[0], nn.Conv2d):
        return made
    if bias:
        layers[0].bias = nn.Parameter(torch.zeros_like(layers[0].weight[:, 0, 0, 0]))
    return layers[0]


def _shape(old: Old, wanted: Candidate, made: nn.Module) -> Shape:
    """What ``made`` gives for an input as ``old`` takes it, found on the meta device without computing anything."""
    probe = copy.deepcopy(made).to("meta").eval()
    try:
        found: Tensor = probe(torch.empty(old.takes, dtype=old.dtype, device="meta"))
        return tuple(found.shape)
    except NasError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        rule = f"does not run on {old.takes}, which {old.name} takes: {str(error).splitlines()[0]}"
        raise _unfit(old, wanted, rule, "return a module that takes the same input") from error


def _unfit(old: Old, wanted: Candidate, rule: str, remedy: str) -> SpaceError:
    return SpaceError(f"space.gated {old.name}", name_of(wanted), rule, remedy)
