"""Layers over a concatenation of slots that touch the weights of the open slots alone.

Each slot has a weight tensor of its own. One wide tensor that is sliced would give the same outputs, but the
gradient of a slice is dense: momentum and weight decay would go on moving the columns of closed slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.errors import SpaceError
from nas.nn.gated import ZeroPadded


def _widths(blocks: int, in_size: int | Sequence[int]) -> tuple[int, ...]:
    widths = (in_size,) * blocks if isinstance(in_size, int) else tuple(in_size)
    if len(widths) != blocks or min(widths, default=0) < 1:
        rule = f"must be one positive size, or {blocks} of them"
        raise SpaceError("in_features or in_channels", in_size, rule, "give the width of every slot")
    return widths


class _BlockLayer(nn.Module):
    """A weight for each slot and one bias.

    A slot's weights start as those of a stand-alone layer behind that slot do (fan-in of one slot, not of all
    of them), since one open slot is the common case.
    """

    weights: nn.ParameterList
    bias: nn.Parameter | None

    def __init__(self, shapes: Sequence[tuple[int, ...]], bias: bool) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in shapes)
        self.bias = nn.Parameter(torch.empty(shapes[0][0])) if bias else None
        bounds = [1 / math.sqrt(math.prod(shape[1:])) for shape in shapes]
        for weight, bound in zip(self.weights, bounds, strict=True):
            nn.init.uniform_(weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -min(bounds), min(bounds))

    def _apply_slot(self, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(self, z: ZeroPadded) -> Tensor:
        """The dense layer's output on ``z.dense()``, to rounding."""
        bias, total = self.bias, None
        for slot, value in zip(z.active, z.values, strict=True):
            part = self._apply_slot(value, self.weights[slot], bias)
            total, bias = part if total is None else total + part, None
        assert total is not None, "a ZeroPadded has at least one open slot"
        return total

    @torch.no_grad()
    def _copy_dense(self, weight: Tensor, bias: Tensor | None) -> None:
        for own, part in zip(self.weights, weight.split([w.shape[1] for w in self.weights], dim=1), strict=True):
            own.copy_(part)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)


class BlockLinear(_BlockLayer):
    """A Linear over a concatenation of ``blocks`` slots.

    Args:
        blocks: number of slots, K.
        in_features: features of each slot, one number for all or one a slot.
        out_features: features of the output.
        bias: whether there is one (one for all slots).

    Shapes:
        a ``ZeroPadded`` that stands for ``(B, sum(in_features))`` in, ``(B, out_features)`` out. ``weights[k]``
        is ``(out_features, in_features[k])``: the columns of slot k of the dense weight.
    """

    def __init__(self, blocks: int, in_features: int | Sequence[int], out_features: int, bias: bool = True) -> None:
        widths = _widths(blocks, in_features)
        super().__init__([(out_features, width) for width in widths], bias)

    def _apply_slot(self, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(value, weight, bias)

    @classmethod
    def from_dense(cls, dense: nn.Linear, widths: Sequence[int]) -> BlockLinear:
        """The layer with the weights of ``dense``, whose input is a concatenation of ``widths`` features.

        Raises:
            SpaceError: the widths do not sum to ``dense.in_features``.
        """
        _check_sum(widths, dense.in_features)
        layer = cls(len(widths), widths, dense.out_features, dense.bias is not None).to(dense.weight)
        layer._copy_dense(dense.weight, dense.bias)
        return layer

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """A plain ``nn.Linear`` over the whole concatenation with these weights, as a copy."""
        weight = torch.cat(list(self.weights), dim=1)
        dense = nn.Linear(weight.shape[1], weight.shape[0], self.bias is not None).to(weight)
        dense.weight.copy_(weight)
        if self.bias is not None:
            dense.bias.copy_(self.bias)
        return dense

    def extra_repr(self) -> str:
        return f"in_features={[w.shape[1] for w in self.weights]}, out_features={self.weights[0].shape[0]}"


class BlockConv2d(_BlockLayer):
    """A Conv2d over a concatenation of ``blocks`` slots of channels; zero padding, no groups.

    Args:
        blocks: number of slots, K.
        in_channels: channels of each slot, one number for all or one a slot.
        out_channels: channels of the output.
        kernel_size, stride, padding, dilation: as in ``nn.Conv2d``, square.
        bias: whether there is one (one for all slots).

    Shapes:
        a ``ZeroPadded`` that stands for ``(B, sum(in_channels), H, W)`` in, ``(B, out_channels, H', W')`` out.
        ``weights[k]`` is ``(out_channels, in_channels[k], kernel_size, kernel_size)``.
    """

    def __init__(
        self,
        blocks: int,
        in_channels: int | Sequence[int],
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        widths = _widths(blocks, in_channels)
        super().__init__([(out_channels, width, kernel_size, kernel_size) for width in widths], bias)
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def _apply_slot(self, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(value, weight, bias, self.stride, self.padding, self.dilation)

    @classmethod
    def from_dense(cls, dense: nn.Conv2d, widths: Sequence[int]) -> BlockConv2d:
        """The layer with the weights of ``dense``, whose input is a concatenation of ``widths`` channels.

        Raises:
            SpaceError: the widths do not sum to ``dense.in_channels``, or ``dense`` is grouped, not square, or
                pads with something else than zeros.
        """
        _check_sum(widths, dense.in_channels)
        shape = [dense.kernel_size, dense.stride, dense.padding, dense.dilation]
        square = all(not isinstance(size, str) and len(set(size)) == 1 for size in shape)
        if dense.groups != 1 or dense.padding_mode != "zeros" or not square:
            rule = "must be square, zero-padded by a number and not grouped"
            raise SpaceError("dense", dense, rule, "keep it dense and give it z.dense()")
        kernel, stride, padding, dilation = (int(size[0]) for size in shape)
        bias = dense.bias is not None
        layer = cls(len(widths), widths, dense.out_channels, kernel, stride, padding, dilation, bias).to(dense.weight)
        layer._copy_dense(dense.weight, dense.bias)
        return layer

    @torch.no_grad()
    def to_dense(self) -> nn.Conv2d:
        """A plain ``nn.Conv2d`` over the whole concatenation with these weights, as a copy."""
        weight = torch.cat(list(self.weights), dim=1)
        sizes = (weight.shape[2], self.stride, self.padding, self.dilation)
        dense = nn.Conv2d(weight.shape[1], weight.shape[0], *sizes, bias=self.bias is not None).to(weight)
        dense.weight.copy_(weight)
        if self.bias is not None and dense.bias is not None:
            dense.bias.copy_(self.bias)
        return dense

    def extra_repr(self) -> str:
        out, _, kernel, _ = self.weights[0].shape
        widths = [w.shape[1] for w in self.weights]
        return f"in_channels={widths}, out_channels={out}, kernel_size={kernel}, stride={self.stride}"


def _check_sum(widths: Sequence[int], size: int) -> None:
    if sum(widths) != size:
        rule = f"must sum to the {size} inputs of the dense layer"
        raise SpaceError("widths", list(widths), rule, "give the width of every slot")
