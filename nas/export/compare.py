"""Whether a file computes what the supernet's subnetwork does, on real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.errors import ExportError
from nas.space import Architecture

RELATIVE = 1e-4
"""Of the largest logit: how far the output of a compiled or translated network may be off."""
SIZES = (1, 7)
"""Batch sizes that are tried besides all images at once."""

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """What came out for one file."""

    file: str
    size_bytes: int
    difference: float
    """Largest absolute difference of a logit, over all images and batch sizes."""
    tolerance: float
    same_class: int
    """Pictures that are given the same class."""
    pictures: int


@dataclass(frozen=True)
class Reference:
    """Pictures, and what the supernet's subnetwork says of them.

    Attributes:
        inputs: batches of normalised images ``(B, C, H, W)``: all of them, then fewer.
        logits: ``(B, classes)`` of each.
    """

    inputs: list[Tensor]
    logits: list[Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, supernet: nn.Module, architecture: Architecture, x: Tensor) -> Reference:
        """What ``supernet`` says of the images ``x``, all at once and the first 1 and 7 by themselves."""
        inputs = [x, *(x[:size] for size in SIZES)]
        return cls(inputs, [supernet(part, architecture) for part in inputs])

    @torch.no_grad()
    def compare(self, path: Path, network: Network, exact: bool = False) -> Comparison:
        """Hold the network that was loaded from ``path`` against this.

        Args:
            path: for its name and size.
            network: what was loaded from it.
            exact: no difference is allowed at all.

        Raises:
            ExportError: it computes something else.
        """
        found = [network(x) for x in self.inputs]
        for own, theirs in zip(self.logits, found, strict=True):
            if own.shape != theirs.shape:
                rule = f"gives {tuple(theirs.shape)}, the supernet's subnetwork {tuple(own.shape)}"
                raise ExportError("file", path.name, rule, "report it with the space and the architecture")
        # In float64, and with max of a tensor, so that a NaN on either side stays one.
        differences = [(a.double() - b.double()).abs().max() for a, b in zip(self.logits, found, strict=True)]
        difference = float(torch.stack(differences).max())
        tolerance = 0.0 if exact else RELATIVE * float(self.logits[0].abs().max())
        same = int((self.logits[0].argmax(1) == found[0].argmax(1)).sum())
        if not difference <= tolerance:
            rule = f"differs from the supernet's subnetwork by {difference:.2g}, at most {tolerance:.2g} is allowed"
            raise ExportError("file", path.name, rule, "nothing was exported; leave this file out if you can")
        return Comparison(path.name, path.stat().st_size, difference, tolerance, same, len(self.inputs[0]))
