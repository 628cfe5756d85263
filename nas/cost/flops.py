"""FLOPs of paths, as torch counts them: 2 x multiply-accumulates of matrix products and convolutions, one picture."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.cost.paths import PathCost
from nas.space import Architecture, SearchSpace


class PathFlops(PathCost):
    """Forward FLOPs of any path, from one count a choice.

    A path costs what all paths share, plus what each of its choices adds. (Exact where a choice does not change
    the shapes behind its slot, which the branches of a slot must not.)

    Args:
        space, supernet: what is counted, on a private copy in eval mode.
        picture: ``(C, H, W)`` of one input.
    """

    def __init__(self, space: SearchSpace, supernet: nn.Module, picture: tuple[int, int, int]) -> None:
        self._probe, self._picture = copy.deepcopy(supernet).cpu().eval(), picture
        super().__init__(space)
        everything: Architecture = tuple(tuple(range(len(slot.choices))) for slot in space.slots)
        self.everything = self.count(everything)
        """With all gates open."""

    def count(self, architecture: Architecture) -> int:
        """Forward FLOPs of any architecture for one picture, counted by running it."""
        return count_flops(self._probe, architecture, self._picture)

    def skipped_share(self, architecture: Architecture) -> float:
        """Share of the FLOPs of the supernet with all gates open that this path does not spend."""
        return 1 - self(architecture) / self.everything if self.everything else 0.0


@torch.no_grad()
def count_flops(supernet: nn.Module, architecture: Architecture, picture: tuple[int, int, int]) -> int:
    """Forward FLOPs of one picture ``(C, H, W)`` on one path."""
    with FlopCounterMode(display=False) as counter:
        supernet(torch.zeros(1, *picture), architecture)
    return int(counter.get_total_flops())
