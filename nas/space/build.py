"""From settings to a space, and the checks that a supernet must pass before it is trained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas.errors import NasError, NasWarning, SettingError, SpaceError
from nas.nn import GatedBlock, GatedConcat, gated_blocks, gated_slots
from nas.settings import (
    CellSettings,
    ChainSettings,
    CustomSettings,
    MacroSettings,
    ModelSettings,
    ResidualSettings,
    SpaceSettings,
    TwoBranchSettings,
)
from nas.space.base import Architecture, SearchSpace
from nas.space.cell import CellSpace
from nas.space.chain import ChainSpace
from nas.space.chained import Chained, survey
from nas.space.custom import CustomSpace
from nas.space.macro import MacroSpace
from nas.space.model import ModelSpace
from nas.space.residual import ResidualSpace
from nas.space.two_branch import TwoBranchSpace


def build_space(settings: SpaceSettings, channels: int = 3, image_size: int = 32, classes: int = 10) -> SearchSpace:
    """The space that ``settings`` describe, for images ``(channels, image_size, image_size)``.

    A custom space is not told about the data; ``space.kwargs`` is for that, and :func:`check_supernet` compares.
    """
    match settings:
        case TwoBranchSettings():
            return TwoBranchSpace(settings, channels, image_size, classes)
        case ChainSettings():
            return ChainSpace(settings, channels, image_size, classes)
        case ResidualSettings():
            return ResidualSpace(settings, channels, image_size, classes)
        case MacroSettings():
            return MacroSpace(settings, channels, image_size, classes)
        case CellSettings():
            return CellSpace(settings, channels, image_size, classes)
        case ModelSettings():
            return ModelSpace(settings, channels, image_size, classes)
        case CustomSettings():
            return CustomSpace(settings)
    remedy = "use two_branch, chain, residual, macro, cell, model or custom"
    raise SettingError("space.name", settings.name, "is not a known space", remedy)


def check_supernet(space: SearchSpace, supernet: nn.Module, channels: int, image_size: int, classes: int) -> None:
    """Run a copy of ``supernet`` once on two random images and look at the shapes.

    Raises:
        SpaceError: branches of one slot disagree in shape, or the output is not ``(B, classes)``, or the network
            does not run on such images, or it is ``Chained`` and breaks its contract.

    Warns:
        NasWarning: a BatchNorm normalises a concatenation with zeros in it.
    """
    probe = copy.deepcopy(supernet).eval()
    x = torch.randn(2, channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
    blocks, own = gated_blocks(probe), gated_blocks(supernet)
    seen: dict[str, Tensor] = {}
    for name, block in blocks.items():
        block.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    with torch.no_grad():
        for choice in range(max(len(slot.choices) for slot in space.slots)):
            before = set(seen)
            with _explained(space, x):
                y = probe(x, _all_at(space, choice))
                new = [name for name in blocks if name in seen and name not in before]
                shapes = {name: _shapes(blocks[name], seen[name]) for name in new}
            for name in new:
                _check_block(name, own[name], shapes[name])
        if not isinstance(y, Tensor):
            rule = f"its forward gives a {type(y).__name__}, not a tensor of logits (2, {classes}) for 2 images"
            raise SpaceError("space", space.name, rule, "return the logits alone")
        if tuple(y.shape) != (2, classes):
            rule = f"gives {tuple(y.shape)} for 2 images; the data needs (2, {classes})"
            raise SpaceError("space", space.name, rule, "give the last layer one output a class (space.kwargs)")
        if isinstance(probe, Chained):
            survey(probe, space.slots, x)
        _warn_of_batchnorm(probe, x, _all_at(space, 0))


def warn_of_one(space: SearchSpace) -> None:
    """Warn of a space with nothing to choose in it."""
    if space.size == 1:
        text = f"space {space.name} has one architecture, so there is nothing to choose; give a slot several branches"
        warnings.warn(text, NasWarning, stacklevel=2)


@torch.no_grad()
def infer_widths(supernet: nn.Module, image: tuple[int, int, int]) -> None:
    """Measure the branches of every ``GatedConcat`` whose widths were not given, because ``extract`` needs them.

    A copy of ``supernet`` runs on a image ``(C, H, W)`` at each choice, since one block may lie in another's branch.
    """
    if all(block.widths for block in gated_blocks(supernet).values() if isinstance(block, GatedConcat)):
        return
    probe, own = copy.deepcopy(supernet).eval(), gated_blocks(supernet)
    sizes = [len(blocks[0].choices) for blocks in gated_slots(probe).values()]
    for choice in range(max(sizes)):
        probe(torch.zeros(1, *image), tuple(min(choice, size - 1) for size in sizes))
    for name, found in gated_blocks(probe).items():
        block = own[name]
        if isinstance(block, GatedConcat) and isinstance(found, GatedConcat):
            block.widths = found.widths


def _all_at(space: SearchSpace, choice: int) -> Architecture:
    return tuple(min(choice, len(slot.choices) - 1) for slot in space.slots)


@contextmanager
def _explained(space: SearchSpace, x: Tensor) -> Iterator[None]:
    try:
        yield
    except NasError:
        raise
    except (RuntimeError, TypeError, IndexError, AttributeError) as error:
        rule = f"does not run on {tuple(x.shape)} images: {str(error).splitlines()[0]}"
        raise SpaceError("space", space.name, rule, "mend its forward(x, architecture)") from error


def _shapes(block: GatedBlock, x: Tensor) -> list[tuple[int, ...]]:
    return [tuple(branch(x).shape) for branch in block.branches]


def _check_block(name: str, block: GatedBlock, shapes: list[tuple[int, ...]]) -> None:
    free = 1 if isinstance(block, GatedConcat) else None
    fixed = [tuple(size for i, size in enumerate(shape) if i != free) for shape in shapes]
    for index, shape in enumerate(fixed):
        if shape != fixed[0]:
            rule = f"{block.choices[0]} gives {shapes[0]}, {block.choices[index]} gives {shapes[index]}"
            raise SpaceError("slot", name, f"its branches disagree in shape: {rule}", "make them agree")
    if isinstance(block, GatedConcat):
        widths = tuple(shape[1] for shape in shapes)
        if block.widths not in (None, widths):
            raise SpaceError("slot", name, f"widths {block.widths} should be {widths}", "give these, or none")
        block.widths = widths


def _warn_of_batchnorm(probe: nn.Module, x: Tensor, architecture: Architecture) -> None:
    """Warn of each BatchNorm whose input is zero in exactly the channels of a concatenation's closed branches."""
    closed = [
        (sum(block.widths), block.widths[0])
        for block in gated_blocks(probe).values()
        if isinstance(block, GatedConcat) and block.widths and len(block.widths) > 1
    ]

    def look(name: str, value: Tensor) -> None:
        dims = [i for i in range(value.dim()) if i != 1]
        zero = (value == 0).all(dim=dims) if dims else value == 0
        # A flatten in between makes every channel as many features as it has pixels.
        cuts = [len(zero) // total * first for total, first in closed if len(zero) % total == 0]
        if any(bool(zero[cut:].all()) and not zero[:cut].all() for cut in cuts):
            reason = "its bias fills the zeros and its statistics shrink with the number of branches"
            warnings.warn(
                f"{name} is a BatchNorm behind a concatenation: {reason}; put it inside the branches",
                NasWarning,
                stacklevel=2,
            )

    norms = {n: m for n, m in probe.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    hooks = [m.register_forward_pre_hook(lambda _, args, name=n: look(name, args[0])) for n, m in norms.items()]
    probe(x, architecture)
    for hook in hooks:
        hook.remove()
