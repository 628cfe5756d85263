"""Settings and networks of all kinds, to be exported."""

from dataclasses import replace

import torch
from torch import nn

from nas.nn import BlockLinear, GatedConcat
from nas.settings import (
    CellSettings,
    CustomSettings,
    MacroSettings,
    TrainRunSettings,
    TrainSettings,
    TwoBranchSettings,
    UniformGateSettings,
)
from support.runs import CHAIN


class Net(nn.Module):
    """A user's own network: lazy widths, a dense concatenation, dropout, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = GatedConcat([self.branch(3, 4), self.branch(5, 6)])
        self.norm = nn.BatchNorm2d(10)
        self.head = BlockLinear(2, 10 * 4, 3)
        self.last = GatedConcat([self.branch(1, 4), self.branch(3, 4)])
        self.out = nn.Sequential(nn.Dropout(0.5), nn.Linear(8 * 4, 3))

    @staticmethod
    def branch(kernel, width):
        conv = nn.LazyConv2d(width, kernel, padding=kernel // 2)
        conv(torch.zeros(1, 3, 8, 8))
        return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2))

    def forward(self, x, architecture):
        first = self.mix(x, architecture[0]).dense().flatten(1)
        second = self.last(x, architecture[1]).dense().flatten(1)
        return self.out(second) + first[:, :3]


class Unfollowable(nn.Module):
    """A part that decides on the values in it, where no gate is."""

    def forward(self, x):
        return x if float(x.detach().sum()) > 0 else x + 1


class Stubborn(nn.Module):
    """A network that torch.export cannot follow, and torch.fx can."""

    def __init__(self):
        super().__init__()
        branches = [nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)) for _ in range(2)]
        self.mix, self.odd = GatedConcat(branches, [3, 3]), Unfollowable()
        self.head = BlockLinear(2, 3, 3)

    def forward(self, x, architecture):
        return self.odd(self.head(self.mix(x, architecture[0])))


def of(space, train=None):
    return TrainRunSettings(space=space, gate=UniformGateSettings(), train=train or TrainSettings())


KINDS = {
    "two_branch": (of(TwoBranchSettings()), "1"),
    "two_branch, both open": (of(TwoBranchSettings()), "0+1"),
    "chain": (of(CHAIN), "2-0"),
    "chain, several open": (replace(of(CHAIN), gate=UniformGateSettings(open=[1, 2])), "0+2-1"),
    "chain, concat": (of(replace(CHAIN, merge="concat")), "1-0+2"),
    "chain, bf16, EMA": (of(CHAIN, TrainSettings(precision="bf16", ema_decay=0.5)), "2-1"),
    "chain, channels_last": (of(CHAIN, TrainSettings(channels_last=True)), "2-1"),
    "macro": (of(MacroSettings()), "01210000"),
    "cell": (
        of(CellSettings(cells=1, width=4)),
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|",
    ),
    "cell, no input": (
        of(CellSettings(cells=1, width=4)),
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    ),
    "custom": (of(CustomSettings(factory="support.exports:Net")), "1-0"),
}
