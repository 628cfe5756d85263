"""What a training step of a supernet takes in memory, found without computing anything or taking that memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.nn import gated_blocks
from nas.space import Architecture, SearchSpace

PICTURES = 97
"""Of the batch that is counted with. A prime number: a tensor whose first dimension it divides has a part for each."""


@dataclass(frozen=True)
class PathMemory:
    """Bytes that one path needs for a forward and backward pass in training.

    Attributes:
        gradients: of the parameters that the path uses; those of closed branches get none.
        saved: what the forward pass keeps for the backward pass, whatever the number of pictures.
        sizes: of each tensor that it keeps of the pictures, themselves included, for one picture; largest first.
    """

    gradients: int
    saved: int
    sizes: tuple[int, ...]

    @property
    def saved_per_picture(self) -> int:
        """What the forward pass keeps for each picture."""
        return sum(self.sizes)

    def activations(self, pictures: int) -> int:
        """What is kept for the backward pass of a batch, each tensor once, parameters and buffers not."""
        return self.saved + self.saved_per_picture * pictures

    def workspace(self, pictures: int) -> int:
        """An estimate of what comes and goes: two gradients of the largest tensor's size and a reordered copy of it."""
        return 3 * pictures * max(self.sizes, default=0)

    def evaluation(self, pictures: int) -> int:
        """An estimate for a forward pass without gradients: a layer's input, output, what is between, and a copy."""
        return 4 * pictures * max(self.sizes, default=0)

    def in_tensors_below(self, limit: int, pictures: int) -> int:
        """What lies in tensors of less than ``limit`` bytes: what is kept, and the workspace of the largest of them."""
        small = [pictures * size for size in self.sizes if pictures * size < limit]
        return sum(small) + 3 * max(small, default=0)


@dataclass
class _Count:
    """What one forward pass has kept, and what a backward pass would give gradients."""

    fixed: int = 0
    sizes: list[int] = field(default_factory=list)
    """Of the tensors that have a part for each picture, for all of them."""
    gradients: int = 0
    of_slot: dict[str, int] = field(default_factory=dict)


def supernet_bytes(supernet: nn.Module) -> tuple[int, int]:
    """Bytes of all parameters, and of all buffers; what is shared counts once."""
    return _bytes(supernet.parameters()), _bytes(supernet.buffers())


def without_memory(supernet: nn.Module) -> nn.Module:
    """A copy of ``supernet`` on torch's meta device: shapes and no values."""
    on_meta: dict[int, object] = {}  # deepcopy takes from here what is there, and so copies no weight
    for parameter in supernet.parameters():
        on_meta[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in supernet.buffers():
        on_meta[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(supernet, on_meta)


def path_memory(
    supernet: nn.Module, picture: tuple[int, int, int], architecture: Architecture, precision: str = "float32"
) -> PathMemory:
    """What a training step on one path needs.

    Args:
        supernet: on the meta device, where nothing is computed, and in training mode.
        picture: ``(C, H, W)`` of one input.
        precision: ``float32``, or ``bf16``: under autocast, which the meta device does not know, all that is kept is
            taken to be half as large, and the weights of the path and the pictures to be there in both precisions.
    """
    count = _count(supernet, picture, architecture, narrow=precision == "bf16")
    return _path_memory(count, picture, precision)


def largest_path(
    space: SearchSpace, supernet: nn.Module, picture: tuple[int, int, int], precision: str = "float32"
) -> tuple[Architecture, PathMemory]:
    """The architecture with one open branch a slot that keeps most for its backward pass, and what it needs.

    Each choice runs once, in a path in which all slots take their choice of that number. The largest of these paths
    is compared with the one that takes what kept most in each slot, and the larger is returned. So it is exact where
    what a choice keeps does not depend on the other slots; otherwise it is a path that exists, but perhaps not the
    largest.

    Args:
        supernet, picture, precision: as in :func:`path_memory`.
    """
    choices, narrow = [len(slot.choices) for slot in space.slots], precision == "bf16"
    paths = [tuple(min(number, count - 1) for count in choices) for number in range(max(choices))]
    found = {path: _count(supernet, picture, path, narrow) for path in paths}
    greedy = tuple(
        max(range(count), key=lambda c, name=slot.name: found[paths[c]].of_slot.get(name, 0))  # type: ignore[misc]
        for slot, count in zip(space.slots, choices, strict=True)
    )
    if greedy not in found:
        found[greedy] = _count(supernet, picture, greedy, narrow)
    largest = max(found, key=lambda path: (sum(found[path].sizes), found[path].gradients))
    return largest, _path_memory(found[largest], picture, precision)


def _path_memory(count: _Count, picture: tuple[int, int, int], precision: str) -> PathMemory:
    fixed, sizes = count.fixed, [size // PICTURES for size in count.sizes]
    if precision == "bf16":
        fixed, sizes = fixed + count.gradients // 2, [*sizes, 4 * math.prod(picture)]
    return PathMemory(count.gradients, fixed, tuple(sorted(sizes, reverse=True)))


def _count(supernet: nn.Module, picture: tuple[int, int, int], architecture: Architecture, narrow: bool) -> _Count:
    x = torch.zeros(PICTURES, *picture, device="meta")
    y = torch.zeros(PICTURES, dtype=torch.int64, device="meta")
    constant = {_storage(tensor) for tensor in (*supernet.parameters(), *supernet.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other one gets the same number
    count = _Count()

    def keep(tensor: Tensor) -> Tensor:
        number, storage = _storage(tensor), tensor.untyped_storage()
        if number in constant or number in kept:
            return tensor
        kept[number] = storage
        size = storage.nbytes() // (2 if narrow and tensor.dtype == torch.float32 else 1)
        if tensor.dim() == 0 or tensor.shape[0] % PICTURES:
            count.fixed += size
            return tensor
        count.sizes.append(size)
        if slots:
            count.of_slot[slots[-1]] = count.of_slot.get(slots[-1], 0) + size
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with _slots_entered(supernet) as slots, torch.enable_grad(), hooks:
        loss = F.cross_entropy(supernet(x, architecture).float(), y)
    count.gradients = _bytes(_differentiated(loss))
    return count


@contextmanager
def _slots_entered(supernet: nn.Module) -> Iterator[list[str]]:
    """The slots whose blocks are being run inside, the innermost last."""
    inside: list[str] = []

    def leave(*_: object) -> None:
        inside.pop()

    handles = []
    for name, block in gated_blocks(supernet).items():
        slot = block.slot or name
        handles.append(block.register_forward_pre_hook(lambda *_, slot=slot: inside.append(slot)))
        handles.append(block.register_forward_hook(leave))
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


def _differentiated(loss: Tensor) -> Iterable[Tensor]:
    """The leaves that a backward pass from ``loss`` gives a gradient."""
    todo, seen, leaves = [loss.grad_fn], {loss.grad_fn}, []
    while todo:
        node = todo.pop()
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.append(leaf)
        for following, _ in node.next_functions if node is not None else ():
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return leaves


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
