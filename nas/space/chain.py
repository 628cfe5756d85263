"""Slots in a row: the choice-block supernet of single-path one-shot search."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from nas.nn import BlockConv2d, GatedConcat, GatedSum, PooledLinear, conv_bn_relu, operation
from nas.settings import ChainSettings, ResidualSettings
from nas.space.base import SearchSpace, Slot
from nas.space.chained import Chained


class ConcatSlot(nn.Module):
    """Branches side by side, then a 1x1 convolution with a weight for each branch, and ReLU."""

    def __init__(self, branches: list[nn.Module], channels: int, choices: list[str]) -> None:
        super().__init__()
        self.mix = GatedConcat(branches, [channels] * len(branches), choices)
        self.project = BlockConv2d(len(branches), channels, channels, kernel_size=1)

    def forward(self, x: Tensor, active: int | tuple[int, ...]) -> Tensor:
        return F.relu(self.project(self.mix(x, active)))


class ChainNet(Chained):
    """A stem, slots in stages, global average pooling and a Linear."""

    def __init__(self, settings: ChainSettings, channels: int, classes: int) -> None:
        super().__init__()
        width = settings.widths[0]
        self.stem = conv_bn_relu(channels, width, 3, settings.stem_stride)
        self.blocks = nn.ModuleList()
        for out, depth, first_stride in zip(settings.widths, settings.depths, settings.strides, strict=True):
            for i in range(depth):
                stride = first_stride if i == 0 else 1
                branches = [operation(name, width, out, stride) for name in settings.candidates]
                concat = settings.merge == "concat"
                self.blocks.append(
                    ConcatSlot(branches, out, settings.candidates)
                    if concat
                    else GatedSum(branches, settings.candidates)
                )
                width = out
        self.head = PooledLinear(width, classes)

    def prologue(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem(x)
        return y

    def epilogue(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x)
        return y


class ChainSpace(SearchSpace):
    """The space of :class:`ChainNet`: ``sum(settings.depths)`` slots with the same candidates."""

    network: Callable[..., nn.Module] = ChainNet
    """Of ``(settings, channels, classes)``."""

    def __init__(
        self, settings: ChainSettings | ResidualSettings, channels: int, image_size: int, classes: int
    ) -> None:
        slots = tuple(Slot(f"slot{i}", tuple(settings.candidates)) for i in range(sum(settings.depths)))
        super().__init__(settings.name, slots)
        self._arguments = (settings, channels, classes)

    def build(self) -> nn.Module:
        return type(self).network(*self._arguments)
