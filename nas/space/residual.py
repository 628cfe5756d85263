"""Slots that add to what passes by them: a residual network of the kind that CIFAR-10 is learned with in minutes."""

from __future__ import annotations

from torch import Tensor, nn

from nas.nn import Active, GatedSum, Zero, conv_bn_relu, operation
from nas.settings import ResidualSettings
from nas.space.chain import ChainSpace
from nas.space.chained import Chained


class ResidualSlot(nn.Module):
    """``x + candidate(x)``; the first slot of a stage has a convolution of stride 2 before it, which is not gated.

    All candidates see the same ``x``, and what they add is a part of it: they share the layers behind them better
    than candidates in a row do.
    """

    def __init__(self, in_channels: int, channels: int, candidates: list[str], first: bool) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(in_channels, channels, 3, stride=2) if first else nn.Identity()
        branches = [Zero() if name == "none" else operation(name, channels, channels) for name in candidates]
        self.mix = GatedSum(branches, candidates)

    def forward(self, x: Tensor, active: Active) -> Tensor:
        x = self.reduce(x)
        y: Tensor = x + self.mix(x, active)
        return y


class ResidualNet(Chained):
    """A 3x3 stem at full resolution, slots in stages, global maximum and a Linear.

    Maximum and scale of the logits are those of airbench (Jordan 2024, arXiv 2404.00498).
    """

    def __init__(self, settings: ResidualSettings, channels: int, classes: int) -> None:
        super().__init__()
        width = settings.widths[0]
        self.stem = conv_bn_relu(channels, width, 3)
        self.blocks = nn.ModuleList()
        for out, depth in zip(settings.widths, settings.depths, strict=True):
            for i in range(depth):
                self.blocks.append(ResidualSlot(width, out, settings.candidates, first=i == 0))
                width = out
        self.head = nn.Linear(width, classes)

    def prologue(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem(x)
        return y

    def epilogue(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x.amax(dim=(2, 3)) / 9)
        return y


class ResidualSpace(ChainSpace):
    """The space of :class:`ResidualNet`: ``sum(settings.depths)`` slots with the same candidates."""

    network = ResidualNet
