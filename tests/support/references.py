"""Slow, obvious versions in float64 of what the package does fast, and the smallest space around a module."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas.nn import gated_blocks
from nas.space import SearchSpace, Slot


def concatenation(values: Sequence[Tensor], active: Sequence[int], widths: Sequence[int]) -> Tensor:
    """The open slots' values where they belong along dimension 1, zeros everywhere else."""
    first = values[0]
    whole = torch.zeros(first.shape[0], sum(widths), *first.shape[2:], dtype=first.dtype)
    for slot, value in zip(active, values, strict=True):
        start = sum(widths[:slot])
        for channel in range(widths[slot]):
            whole[:, start + channel] = value[:, channel]
    return whole


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One output feature at a time."""
    columns = [(x * row).sum(dim=1) for row in weight]
    y = torch.stack(columns, dim=1)
    return y if bias is None else y + bias


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int) -> Tensor:
    """One output position at a time; square kernel, zero padding."""
    batch, channels, height, width = x.shape
    bordered = torch.zeros(batch, channels, height + 2 * padding, width + 2 * padding, dtype=x.dtype)
    bordered[:, :, padding : padding + height, padding : padding + width] = x
    reach = dilation * (weight.shape[2] - 1) + 1
    rows = []
    for top in range(0, bordered.shape[2] - reach + 1, stride):
        row = []
        for left in range(0, bordered.shape[3] - reach + 1, stride):
            patch = bordered[:, :, top : top + reach : dilation, left : left + reach : dilation]
            row.append(torch.stack([(patch * kernel).sum(dim=(1, 2, 3)) for kernel in weight], dim=1))
        rows.append(torch.stack(row, dim=-1))
    y = torch.stack(rows, dim=-2)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def softmax(numbers: Sequence[float]) -> list[float]:
    largest = max(numbers)
    powers = [math.exp(number - largest) for number in numbers]
    return [power / sum(powers) for power in powers]


class ModuleSpace(SearchSpace):
    """The space of the supernets that ``factory()`` gives; a slot for each gated block."""

    def __init__(self, factory: Callable[[], nn.Module]) -> None:
        self._factory = factory
        blocks = gated_blocks(factory())
        super().__init__("test", tuple(Slot(name, block.choices) for name, block in blocks.items()))

    def build(self) -> nn.Module:
        return self._factory()


class Slots(SearchSpace):
    """Slots alone, without a network."""

    def __init__(self, *counts):
        super().__init__("slots", tuple(Slot(f"s{i}", tuple("abcdefghijkl"[:n])) for i, n in enumerate(counts)))

    def build(self):
        raise NotImplementedError


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """What happens inside leaves the network's tensors, its modes and torch's generator as they were, and no hook."""
    modes, random = [module.training for module in network.modules()], torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    yield
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())
    assert torch.equal(random, torch.get_rng_state())
