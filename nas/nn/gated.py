"""Gated blocks: parallel branches of which only the open ones run.

The closed branches are neither called nor differentiated. What stands in their place is zeros, and a
:class:`ZeroPadded` says where they are without writing them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from nas.errors import ArchitectureError, SpaceError

Active = int | tuple[int, ...]
"""Which branches of one block are open: an index, or a tuple of indices."""


def indices_of(active: Active) -> tuple[int, ...]:
    """The indices that ``active`` names, unchecked: ``(2,)`` for 2, ``(0, 2)`` for ``(0, 2)``."""
    return (active,) if isinstance(active, int) else active


def active_of(indices: Sequence[int]) -> Active:
    """The entry that names ``indices``, which undoes :func:`indices_of`: 2 for ``[2]``, ``(0, 2)`` for ``[0, 2]``."""
    return indices[0] if len(indices) == 1 else tuple(indices)


def open_branches(active: Active, count: int) -> tuple[int, ...]:
    """The open branches of a block of ``count`` branches, in ascending order.

    Raises:
        ArchitectureError: none is open, one is named twice, one does not exist, or it is a mask of booleans.
    """
    if isinstance(active, int):
        if _is_index(active, count):
            return (active,)
    elif active and len(set(active)) == len(active) and all(_is_index(i, count) for i in active):
        return tuple(sorted(active))
    rule = f"must name branches from 0 to {count - 1}, at least one, none of them twice"
    raise ArchitectureError("active", active, rule, "pass an index or a tuple of indices")


def _is_index(value: object, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count


class ZeroPadded:
    """A concatenation of slots along dimension 1 of which most are zero, without the zeros.

    It stands for the tensor ``dense()``. ``nas.nn.BlockLinear`` and ``nas.nn.BlockConv2d`` consume it as it is.

    Args:
        values: what the open branches gave, each ``(B, width, ...)``.
        active: which slots they fill, ascending.
        widths: the width of every slot along dimension 1, open or not; or a function that finds out, since
            only ``dense()`` needs them.
    """

    __slots__ = ("_widths", "active", "values")

    def __init__(
        self,
        values: tuple[Tensor, ...],
        active: tuple[int, ...],
        widths: tuple[int, ...] | Callable[[], tuple[int, ...]],
    ) -> None:
        self.values, self.active, self._widths = values, active, widths

    def __repr__(self) -> str:
        return f"ZeroPadded(slots {self.active} filled, by {[tuple(value.shape) for value in self.values]})"

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each slot along dimension 1."""
        return self._widths() if callable(self._widths) else self._widths

    def map(self, fn: Callable[[Tensor], Tensor]) -> ZeroPadded:
        """Apply a step that turns zeros into zeros: ReLU, pooling, flatten, dropout.

        ``fn`` may scale the width of a slot, as flatten does, by one factor for all slots. Not every function
        has ``fn(0) = 0``: for a sigmoid or a BatchNorm take ``dense()``.
        """
        values = tuple(fn(value) for value in self.values)
        before, after = self.values[0], values[0]
        return ZeroPadded(values, self.active, lambda: _scaled(self.widths, after.shape[1], before.shape[1]))

    def dense(self) -> Tensor:
        """The concatenation with its zeros written out: ``(B, sum(widths), ...)``.

        Raises:
            SpaceError: an open branch is not as wide as its slot.
        """
        widths, like = self.widths, self.values[0]
        # Sums of shapes, where unpacking would do, because torch.fx can trace them.
        slots = [like.new_zeros(like.shape[:1] + (width,) + like.shape[2:]) for width in widths]  # noqa: RUF005
        for slot, value in zip(self.active, self.values, strict=True):
            if isinstance(value.shape[1], int) and value.shape[1] != widths[slot]:
                rule = f"slot {slot} is said to be {widths[slot]} wide, its branch gave {value.shape[1]}"
                raise SpaceError("widths", widths, rule, "give GatedConcat the widths its branches have")
            slots[slot] = value
        return torch.cat(slots, dim=1)


def _scaled(widths: tuple[int, ...], after: int, before: int) -> tuple[int, ...]:
    return tuple(width * after // before for width in widths)


class GatedBlock(nn.Module):
    """The base of all gated blocks: named branches that fill one slot of an architecture.

    Blocks with the same ``slot`` share it: one entry of an architecture opens their branches alike.
    """

    place = 0
    """Where it stands among the blocks of a network that says so; else they stand as they were assigned."""

    def __init__(
        self, branches: Iterable[nn.Module], choices: Sequence[str] | None = None, slot: str | None = None
    ) -> None:
        super().__init__()
        self.slot = slot
        self.branches = nn.ModuleList(branches)
        self.choices = tuple(choices or (f"branch{i}" for i in range(len(self.branches))))
        if not self.branches or len(self.choices) != len(self.branches):
            rule = f"needs a name for each of its {len(self.branches)} branches, and at least one branch"
            raise SpaceError("choices", self.choices, rule, "name every branch once")

    def extra_repr(self) -> str:
        return f"choices={self.choices}"


def _run(block: GatedBlock, x: Tensor, index: int) -> Tensor:
    # The dictionaries behind block.branches[index]: the same module for a tenth of the look-up, once a slot a step.
    value: Tensor = block._modules["branches"]._modules[str(index)](x)  # type: ignore[union-attr, misc]
    return value


class GatedConcat(GatedBlock):
    """Branches side by side in slots of channels; closed branches leave zeros.

    Args:
        branches: modules that take the same input and give ``(B, width, ...)``; widths may differ, all other
            sizes may not.
        widths: channels that each branch gives. Only ``dense()`` needs them; when left out they are found by
            running the branches once on tensors without memory (torch's meta device).
        choices: names of the branches.
        slot: name of the slot, where it has several blocks; otherwise the block is a slot of its own.

    Shapes:
        ``x`` is whatever the branches take; the result stands for ``(B, sum(widths), ...)``.
    """

    def __init__(
        self,
        branches: Iterable[nn.Module],
        widths: Sequence[int] | None = None,
        choices: Sequence[str] | None = None,
        slot: str | None = None,
    ) -> None:
        super().__init__(branches, choices, slot)
        self.widths = None if widths is None else tuple(widths)
        if self.widths is not None and len(self.widths) != len(self.branches):
            rule = f"must have one entry for each of the {len(self.branches)} branches"
            raise SpaceError("widths", self.widths, rule, "give every branch its number of channels")

    def forward(self, x: Tensor, active: Active) -> ZeroPadded:
        indices = open_branches(active, len(self.choices))
        values = tuple(_run(self, x, index) for index in indices)
        return ZeroPadded(values, indices, self.widths or (lambda: self.measure(x)))

    def measure(self, x: Tensor) -> tuple[int, ...]:
        """The width of each branch for inputs like ``x``, found without computing anything; kept.

        Raises:
            SpaceError: ``x`` is torch.fx's stand-in for a tensor, which has no shape.
        """
        if self.widths is None:
            if not isinstance(x, Tensor):
                rule = "must be known before forward is recorded, since it asks for dense()"
                raise SpaceError("widths", None, rule, "give GatedConcat its widths, or call measure(x) before")
            spec = torch.empty(x.shape, dtype=x.dtype, device="meta")
            self.widths = tuple(_on_meta(branch, spec).shape[1] for branch in self.branches)
        return self.widths


def _on_meta(module: nn.Module, x: Tensor) -> Tensor:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shadows = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    modes = {part: part.training for part in module.modules()}
    module.eval()  # a BatchNorm that is being recalibrated would ask for the number of its batches
    try:
        result: Tensor = torch.func.functional_call(module, shadows, (x,))
    finally:
        for part, training in modes.items():
            part.training = training
    return result


class GatedSum(GatedBlock):
    """The choice block of single-path search: the open branch's output, or the sum of the open ones.

    Args:
        branches: modules that take the same input and give the same shape.
        choices: names of the branches.
        slot: name of the slot, where it has several blocks; otherwise the block is a slot of its own.
    """

    def forward(self, x: Tensor, active: Active) -> Tensor:
        return sum_of_open(self, x, active)


def sum_of_open(block: GatedBlock, x: Tensor, active: Active) -> Tensor:
    """The open branch's output, or the sum of the open ones."""
    indices = open_branches(active, len(block.choices))
    value = _run(block, x, indices[0])
    for index in indices[1:]:
        value = value + _run(block, x, index)
    return value


def gated_blocks(module: nn.Module) -> dict[str, GatedBlock]:
    """The gated blocks inside ``module`` by name, in the order in which they were assigned.

    Those of a :class:`nas.nn.GatedModel` stand in the order in which they run.
    """
    found = [(name, child) for name, child in module.named_modules() if isinstance(child, GatedBlock)]
    return dict(sorted(found, key=lambda pair: pair[1].place))


def gated_slots(module: nn.Module) -> dict[str, list[GatedBlock]]:
    """The slots of ``module``, in the order in which their first blocks were assigned, with all their blocks.

    Raises:
        SpaceError: blocks of one slot have different choices.
    """
    slots: dict[str, list[GatedBlock]] = {}
    for name, block in gated_blocks(module).items():
        slots.setdefault(block.slot or name, []).append(block)
    for name, blocks in slots.items():
        if len({block.choices for block in blocks}) > 1:
            raise SpaceError("slot", name, "has blocks with different choices", "give them the same, or other slots")
    return slots
