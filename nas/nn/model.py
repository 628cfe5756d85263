"""A network that knows nothing of gates, with gated blocks in place of some of its modules.

The network's own code calls a block as it has called the module in whose place it stands: with ``x`` alone. Which
branch is open reaches the block as a value of the call of the whole network (a ``ContextVar``), not as a state of any
module: calls on several threads, and calls within calls, have each their own. So ``forward`` may be any code, also code
that cannot be followed symbolically.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

from nas.errors import ArchitectureError, SpaceError
from nas.nn.gated import Active, GatedBlock, gated_blocks, open_branches, sum_of_open

_ENTRIES: ContextVar[tuple[Active, ...]] = ContextVar("architecture")


@contextmanager
def opened(architecture: tuple[Active, ...]) -> Iterator[None]:
    """Within the block, on this thread, each :class:`InPlace` that runs has its entry of ``architecture``."""
    token = _ENTRIES.set(architecture)
    try:
        yield
    finally:
        _ENTRIES.reset(token)


class InPlace(GatedBlock):
    """A gated block that stands in place of a module of a :class:`GatedModel`; the sum of its open branches.

    Args:
        branches: modules that take the same input and give the same shape.
        choices: names of the branches.
        slot: name of the slot.
        place: of its entry in an architecture.
    """

    def __init__(self, branches: Iterable[nn.Module], choices: Sequence[str], slot: str, place: int) -> None:
        super().__init__(branches, choices, slot)
        self.place = place

    def forward(self, x: Tensor, *absent: object, **named: object) -> Tensor:
        """``x`` through the open branches; a mask or the like that the network hands on must be None or False."""
        _check_off(self.slot, *absent, *named.values())
        if (entries := _ENTRIES.get(None)) is None:
            remedy = "gate a module around it, or write the gates into forward (space=custom)"
            raise SpaceError("space.gated", self.slot, "runs outside of supernet(x, architecture)", remedy)
        return sum_of_open(self, x, entries[self.place])


def _check_off(slot: str | None, *values: object) -> None:
    if any(value is not None and value is not False for value in values):
        rule, remedy = "is called with more than a tensor", "gate a module around it, or take space=custom"
        raise SpaceError("space.gated", slot, rule, remedy)


class GatedModel(nn.Module):
    """A network some of whose modules are :class:`InPlace` blocks, called as ``supernet(x, architecture)``.

    Args:
        model: the network; ``model(x)`` gives logits ``(B, classes)``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._slots = len({block.place for block in gated_blocks(model).values()})

    def forward(self, x: Tensor, architecture: tuple[Active, ...]) -> Tensor:
        """Logits ``(B, classes)`` of the subnetwork that has one entry a slot, in the order of the forward pass."""
        self._check(architecture)
        with opened(architecture):
            y: object = self.model(x)
        if not isinstance(y, Tensor):
            rule = f"gives a {type(y).__name__}{' in training mode' if self.training else ''}, not a tensor of logits"
            remedy = "return the logits alone (torchvision's inception and googlenet: kwargs={aux_logits: false})"
            raise SpaceError("space.model", type(self.model).__name__, rule, remedy)
        return y

    def extract(self, architecture: tuple[Active, ...]) -> nn.Module:
        """The subnetwork as the network it was, with one branch in place of each block; a copy.

        What was kept has the name that it had before it was gated.
        """
        self._check(architecture)
        memo: dict[int, nn.Module] = {}
        for block in gated_blocks(self.model).values():
            branches = [block.branches[i] for i in open_branches(architecture[block.place], len(block.branches))]
            memo[id(block)] = copy.deepcopy(
                branches[0] if len(branches) == 1 else BranchSum(branches, block.slot), memo
            )
        return copy.deepcopy(self.model, memo)

    def _check(self, architecture: tuple[Active, ...]) -> None:
        if len(architecture) != self._slots:
            rule = f"must have one entry for each of the {self._slots} slots"
            raise ArchitectureError("architecture", architecture, rule, "see space.slots, or gated_slots(supernet)")


class BranchSum(nn.Module):
    """The sum of what branches give, in place of a module that may be called with more than a tensor.

    Args:
        branches: modules that take the same tensor and give the same shape.
        slot: its name.
    """

    def __init__(self, branches: Iterable[nn.Module], slot: str | None) -> None:
        super().__init__()
        self.branches, self.slot = nn.ModuleList(branches), slot

    def forward(self, x: Tensor, *absent: object, **named: object) -> Tensor:
        """The sum for ``x``; all else that the network hands on must be None or False."""
        _check_off(self.slot, *absent, *named.values())
        first, *others = self.branches
        value: Tensor = first(x)
        for branch in others:
            value = value + branch(x)
        return value
