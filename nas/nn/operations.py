"""Candidate operations: what a branch of a choice block can be.

Each convolution has its BatchNorm and its ReLU inside the branch. A BatchNorm behind a concatenation with zeros
would be wrong: its bias fills the zeros, and its statistics shrink with the number of branches.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from nas.errors import SettingError, did_you_mean

OPERATIONS = (
    "skip",
    "conv1",
    "conv3",
    "conv5",
    "conv7",
    "sep3",
    "sep5",
    "dil3",
    "max_pool3",
    "avg_pool3",
    "mb3_k3",
    "mb3_k5",
    "mb6_k3",
    "mb6_k5",
)
"""Common names for :func:`operation`; ``conv<k>``, ``sep<k>``, ``dil<k>``, ``*_pool<k>`` take any odd kernel size
and ``mb<e>_k<k>`` any expansion."""


class Copy(nn.Module):
    """The operation ``skip`` where what follows writes into its input: a copy of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class Zero(nn.Module):
    """The operation ``none``: zeros of the shape of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class PooledLinear(nn.Linear):
    """A Linear behind global average pooling: ``(B, in_features, H, W)`` in, ``(B, out_features)`` out."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(dim=(2, 3)))


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm and, unless told otherwise, ReLU; ``H' = ceil(H / stride)``."""
    padding = dilation * (kernel_size - 1) // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class MBConv(nn.Module):
    """Inverted residual (MobileNetV2): expand 1x1, depthwise, project 1x1 without ReLU; shortcut where shapes agree.

    Args:
        in_channels, out_channels: channels in and out.
        stride: of the depthwise convolution.
        kernel_size: of the depthwise convolution, odd.
        expansion: channels in between, as a multiple of ``in_channels``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kernel_size: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = conv_bn_relu(in_channels, hidden, 1)
        self.depthwise = conv_bn_relu(hidden, hidden, kernel_size, stride, groups=hidden)
        self.project = conv_bn_relu(hidden, out_channels, 1, relu=False)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


def _skip(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return conv_bn_relu(in_channels, out_channels, 1, stride, relu=False)


def _separable(in_channels: int, out_channels: int, stride: int, kernel_size: int) -> nn.Module:
    depthwise = conv_bn_relu(in_channels, in_channels, kernel_size, stride, groups=in_channels)
    return nn.Sequential(depthwise, conv_bn_relu(in_channels, out_channels, 1))


def _pool(pool: nn.Module, in_channels: int, out_channels: int) -> nn.Module:
    return pool if in_channels == out_channels else nn.Sequential(pool, _skip(in_channels, out_channels, 1))


def operation(name: str, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    """The candidate operation ``name`` as a module.

    Shapes:
        ``(B, in_channels, H, W)`` in, ``(B, out_channels, ceil(H / stride), ceil(W / stride))`` out, for every
        operation: the branches of one slot agree. Where a ``skip`` changes shape it is a 1x1 convolution with
        BatchNorm and no ReLU.

    Raises:
        SettingError: ``name`` is not an operation.
    """
    if name == "skip":
        return _skip(in_channels, out_channels, stride)
    if match := re.fullmatch(r"mb([1-9])_k([1-9]\d?)", name):
        expansion, kernel = int(match[1]), int(match[2])
        if kernel % 2:
            return MBConv(in_channels, out_channels, stride, kernel, expansion)
    if match := re.fullmatch(r"(conv|sep|dil|max_pool|avg_pool)([1-9]\d?)", name):
        kind, kernel = match[1], int(match[2])
        if kernel % 2:
            if kind == "conv":
                return conv_bn_relu(in_channels, out_channels, kernel, stride)
            if kind == "sep":
                return _separable(in_channels, out_channels, stride, kernel)
            if kind == "dil":
                return conv_bn_relu(in_channels, out_channels, kernel, stride, dilation=2)
            if kind == "max_pool":
                return _pool(nn.MaxPool2d(kernel, stride, kernel // 2), in_channels, out_channels)
            # The padding is not part of the average, as in DARTS and NAS-Bench-201.
            average = nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)
            return _pool(average, in_channels, out_channels)
    remedy = f"choose from {', '.join(OPERATIONS)}; kernel sizes are odd"
    remedy = remedy if name[-1:] in tuple("02468") else did_you_mean(name, OPERATIONS, remedy)
    raise SettingError("space.candidates", name, "is not a known operation", remedy)
