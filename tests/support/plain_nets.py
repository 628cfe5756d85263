"""Small networks that know nothing of gates, as somebody else may have written them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block with a BatchNorm behind each convolution; ``second`` is assigned before ``first``."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.second, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.first, self.norm1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        same = width == out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(width, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(self.relu(self.norm1(self.first(x)))))
        return self.relu(y + self.shortcut(x))  # type: ignore[no-any-return]


class PlainNet(nn.Module):
    """A stem and two residual blocks, then a Linear over the mean."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, 2)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 16, 2))
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.blocks(self.stem(x)).mean((2, 3)))
        return y


class Untraceable(PlainNet):
    """Decides by the values of the images, which no symbolic trace can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(-1) if float(x.sum()) > 0 else x)


class Skipping(PlainNet):
    """A skip leads over both blocks."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y: Tensor = self.fc(self.blocks(x).mean((2, 3)) + x.mean((1, 2, 3))[:, None])
        return y


class Halved(PlainNet):
    """Writes to what a module has given, and splits it."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.blocks[0](self.stem(x).relu_()).chunk(2, 1)
        y: Tensor = self.fc(self.blocks[1](torch.cat([right, left], 1)).mean((2, 3)))
        return y


class Twice(PlainNet):
    """Runs a block twice, BatchNorm included, before and behind another module."""

    def __init__(self) -> None:
        super().__init__()
        self.between = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.blocks(self.between(self.blocks[0](self.stem(x)))).mean((2, 3)))
        return y


class Misused(PlainNet):
    """Takes the weights of its head without calling it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(self.blocks(self.stem(x)).mean((2, 3)), self.fc.weight)


class Overwriting(nn.Module):
    """Rectifies in place what the convolution ``mix`` gives."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.relu, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x + self.relu(self.mix(x))).mean((2, 3)))  # type: ignore[no-any-return]


class Option(nn.Module):
    """Takes a mask and whether to negate, both off by default."""

    def forward(self, x: Tensor, mask: Tensor | None = None, negate: bool = False) -> Tensor:
        y = x if mask is None else x * mask
        return -y if negate else y


class Optioned(nn.Module):
    """Hands a mask and an option on to its modules: to ``other`` one that is not off by default."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.other, self.fc = Option(), OnByDefault(), nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.other(self.inner(x, None, negate=False), negate=False)
        return self.fc(y.mean((2, 3)))  # type: ignore[no-any-return]


class OnByDefault(nn.Module):
    """Negates unless told otherwise."""

    def forward(self, x: Tensor, negate: bool = True) -> Tensor:
        return -x if negate else x


def wide(old: nn.Module) -> nn.Module:
    """A candidate of a user's own: the convolution with a dilation."""
    assert isinstance(old, nn.Conv2d)
    return nn.Conv2d(old.in_channels, old.out_channels, 3, old.stride, 2, dilation=2)


def clipped(old: nn.Module) -> nn.Module:
    """A candidate that writes to its input."""
    return nn.Sequential(nn.Hardtanh(-0.1, 0.1, inplace=True), wide(old))
