"""Mixup and CutMix: each image of a batch takes a share of the one before it, and so does its label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import one_hot


@dataclass(frozen=True)
class Mix:
    """How the images of a batch are mixed.

    Attributes:
        kept: share of its own that an image keeps.
        box: rows and columns that come from the other image; None: all of them, faded.
    """

    kept: float
    box: tuple[slice, slice] | None = None

    @classmethod
    def drawn(cls, mixup: float, cutmix: float, size: tuple[int, int], seed: int) -> Mix:
        """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019); one of them for each batch where both are on.

        Args:
            mixup: the ``a`` of Beta(a, a), from which ``kept`` is drawn; 0 switches it off.
            cutmix: likewise.
            size: rows and columns of an image.
            seed: of the draws.
        """
        draws = np.random.default_rng(seed)
        if not cutmix or (mixup and draws.random() < 0.5):
            return cls(draws.beta(mixup, mixup))
        share, centres = (1 - draws.beta(cutmix, cutmix)) ** 0.5, draws.integers(size)
        halves = [int(share * length) // 2 for length in size]
        rows, columns = (slice(max(0, at - half), at + half) for at, half in zip(centres.tolist(), halves, strict=True))
        cut = len(range(size[0])[rows]) * len(range(size[1])[columns])
        return cls(1 - cut / (size[0] * size[1]), (rows, columns))

    def images(self, x: Tensor, others: Tensor) -> Tensor:
        """``x``, ``(B, C, H, W)``, which is changed, with its share of ``others``."""
        if self.box is None:
            return x.mul_(self.kept).add_(others * (1 - self.kept))  # one add_(alpha=) may round otherwise at the end
        rows, columns = self.box
        x[:, :, rows, columns] = others[:, :, rows, columns]
        return x

    def labels(self, y: Tensor, others: Tensor, classes: int) -> Tensor:
        """The share of each class, float32 ``(B, classes)``, of labels ``(B,)`` and those of the others."""
        return self.kept * one_hot(y, classes).float() + (1 - self.kept) * one_hot(others, classes)
