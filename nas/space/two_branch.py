"""The smallest gated network: one slot of parallel convolutional branches, then three dense layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.errors import SpaceError
from nas.nn import BlockLinear, GatedConcat
from nas.settings import TwoBranchSettings
from nas.space.base import Architecture, SearchSpace, Slot


def branch(channels: int, width: int) -> nn.Sequential:
    """conv(6, 5)-ReLU-pool-conv(16, 5)-ReLU-pool, with ``width`` times the channels."""
    return nn.Sequential(
        nn.Conv2d(channels, 6 * width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6 * width, 16 * width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class TwoBranchNet(nn.Module):
    """``branches`` parallel branches, of which the open ones feed three dense layers."""

    def __init__(self, branches: int, width: int, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.mix = GatedConcat((branch(channels, width) for _ in range(branches)), [16 * width] * branches)
        self.fc1 = BlockLinear(branches, 16 * width * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        z = self.mix(x, architecture[0]).map(lambda value: torch.flatten(value, 1))
        y: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(z)))))
        return y


class TwoBranchSpace(SearchSpace):
    """The space of :class:`TwoBranchNet`: one slot, ``settings.branches`` choices.

    Raises:
        SpaceError: images are too small for two 5x5 convolutions and two poolings.
    """

    def __init__(self, settings: TwoBranchSettings, channels: int, image_size: int, classes: int) -> None:
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            rule = "must be at least 16 for space two_branch"
            raise SpaceError("data.image_size", image_size, rule, "use larger images or space=chain")
        choices = tuple(f"branch{i}" for i in range(settings.branches))
        super().__init__(settings.name, (Slot("mix", choices),))
        self._arguments = (settings.branches, settings.width, channels, side, classes)

    def build(self) -> nn.Module:
        return TwoBranchNet(*self._arguments)
