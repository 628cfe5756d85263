"""BatchNorm statistics of one path, estimated on training images (BN recalibration).

A supernet's running statistics are a mixture over all paths; no single path has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas.space.base import Architecture


@contextmanager
def estimate_statistics(norms: Sequence[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Within the block, ``norms`` estimate their statistics from scratch: the average over batches, equally weighted.

    Each layer normalises a batch by that batch, as in training. It is in eval mode afterwards.
    """
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def norms_with_statistics(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers of a network that track running statistics."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]


@torch.no_grad()
def recalibrate(model: nn.Module, architecture: Architecture, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Replace the BatchNorm statistics on a path by those of ``batches``, in place; ``model`` ends in eval mode.

    Dropout is off meanwhile. Layers that track no statistics stay as they are.
    """
    model.eval()
    norms = norms_with_statistics(model)
    if norms:
        with estimate_statistics(norms):
            for x, _ in batches:
                model(x, architecture)
