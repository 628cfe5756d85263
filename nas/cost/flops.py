"""FLOPs of paths, as torch counts them: 2 x multiply-accumulates of matrix products and convolutions, one image."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import nn

from nas.cost.paths import PathCost
from nas.eager import EagerDispatchMode
from nas.space import Architecture, SearchSpace


class FlopCounter(EagerDispatchMode):
    """Counts FLOPs by torch's formulas and so as ``FlopCounterMode`` does, which imports torch's compiler.

    Attributes:
        total: 2 x multiply-accumulates of all matrix products and convolutions inside the context.
    """

    total = 0

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # imports Triton, which takes a tenth of a second

        self._formulas = flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in self._formulas:
            self.total += self._formulas[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


class PathFlops(PathCost):
    """Forward FLOPs of any path, from one count a choice.

    A path costs what all paths share, plus what each of its choices adds. This is exact where a choice does not
    change the shapes behind its slot, which the branches of a slot must not.

    Args:
        space, supernet: what is counted, on a private copy in eval mode.
        image_shape: ``(C, H, W)`` of one input.
    """

    def __init__(self, space: SearchSpace, supernet: nn.Module, image_shape: tuple[int, int, int]) -> None:
        self._probe, self._image_shape = copy.deepcopy(supernet).cpu().eval(), image_shape
        super().__init__(space)

    @cached_property
    def everything(self) -> int:
        """With all gates open."""
        return self.count(tuple(tuple(range(len(slot.choices))) for slot in self._space.slots))

    def count(self, architecture: Architecture) -> int:
        """Forward FLOPs of any architecture for one image, counted by running it."""
        return count_flops(self._probe, architecture, self._image_shape)

    def skipped_share(self, architecture: Architecture) -> float:
        """Share of the FLOPs of the supernet with all gates open that this path does not spend."""
        return 1 - self(architecture) / self.everything if self.everything else 0.0


@torch.no_grad()
def count_flops(supernet: nn.Module, architecture: Architecture, image_shape: tuple[int, int, int]) -> int:
    """Forward FLOPs of one image ``(C, H, W)`` on one path."""
    with FlopCounter() as counter:
        supernet(torch.zeros(1, *image_shape), architecture)
    return counter.total
