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
"""Tolerance for the outputs of a compiled or translated network, relative to the largest logit."""
SIZES = (1, 7)
"""Batch sizes to try besides all images at once."""

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """The comparison of one file with the supernet's subnetwork."""

    file: str
    size_bytes: int
    difference: float
    """Largest absolute difference of a logit, over all images and batch sizes."""
    tolerance: float
    same_class: int
    """Number of images that both assign to the same class."""
    images: int


@dataclass(frozen=True)
class Reference:
    """Images, and the logits that the supernet's subnetwork gives for them.

    Attributes:
        inputs: batches of images ``(B, C, H, W)`` as the files take them: all of them, then fewer.
        logits: ``(B, classes)`` for each batch.
    """

    inputs: list[Tensor]
    logits: list[Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, supernet: nn.Module, architecture: Architecture, x: Tensor, raw: Tensor | None = None) -> Reference:
        """Evaluate ``supernet`` on the images ``x``: on all at once, and on the first 1 and 7.

        ``raw`` are the same images, not normalised, for files that take those.
        """
        sizes = (len(x), *SIZES)
        given = x if raw is None else raw
        return cls([given[:size] for size in sizes], [supernet(x[:size], architecture) for size in sizes])

    @torch.no_grad()
    def compare(self, path: Path, network: Network, exact: bool = False) -> Comparison:
        """Compare a network that was loaded from ``path`` with this reference.

        Args:
            path: the file.
            network: the network loaded from it.
            exact: allow no difference.

        Raises:
            ExportError: the network computes something else.
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
