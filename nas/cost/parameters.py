"""Parameters of networks and of paths."""

from __future__ import annotations

from torch import nn

from nas.cost.paths import PathCost
from nas.errors import SpaceError
from nas.nn import gated_slots
from nas.space import Architecture, SearchSpace, extract


def count_parameters(module: nn.Module) -> int:
    """Numbers in the parameters of ``module``; what is shared between layers counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


class PathParameters(PathCost):
    """Parameters of the stand-alone network of any path, from one count a choice.

    Raises:
        SpaceError: two slots share a parameter, so that what a choice adds depends on the other slot; or two branches
            of a slot do, and several are open; or the supernet's forward cannot be followed (see
            :func:`nas.space.extract`).
    """

    def __init__(self, space: SearchSpace, supernet: nn.Module) -> None:
        self._supernet = supernet
        _refuse_shared(supernet, space.several)
        super().__init__(space)

    def count(self, architecture: Architecture) -> int:
        """Parameters of any architecture, counted in its extracted network."""
        return count_parameters(extract(self._supernet, architecture))


def _refuse_shared(supernet: nn.Module, several: bool) -> None:
    owner: dict[nn.Parameter, tuple[str, int]] = {}
    for slot, blocks in gated_slots(supernet).items():
        for choice, branches in enumerate(zip(*(block.branches for block in blocks), strict=True)):
            for parameter in {parameter for branch in branches for parameter in branch.parameters()}:
                other, branch = owner.setdefault(parameter, (slot, choice))
                if other != slot or (several and branch != choice):
                    whose = f"with slot {other}" if other != slot else "between its branches"
                    rule = f"shares parameters {whose}, so that they do not add up"
                    raise SpaceError("slot", slot, rule, "count those of nas.space.extract(supernet, architecture)")
