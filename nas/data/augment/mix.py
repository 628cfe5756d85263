"""Mixup and CutMix: each image of a batch takes a share of the one before it, and so does its label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
    def drawn(cls, mixup: float, cutmix: float, size: tuple[int, int], number: int, seed: int) -> list[Mix]:
        """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019); one of them for each batch where both are on.

        Args:
            mixup: the ``a`` of Beta(a, a), from which ``kept`` is drawn; 0 switches it off.
            cutmix: likewise.
            size: rows and columns of an image.
            number: batches.
            seed: of the draws.
        """
        draws = np.random.default_rng(seed)
        faded = [cls(kept) for kept in draws.beta(mixup, mixup, number).tolist()] if mixup else []
        if not cutmix:
            return faded
        cut, shares = list[Mix](), (1 - draws.beta(cutmix, cutmix, number)) ** 0.5
        for share, centre in zip(shares.tolist(), draws.integers(size, size=(number, 2)).tolist(), strict=True):
            sides = [(at, int(share * length) // 2) for at, length in zip(centre, size, strict=True)]
            rows, columns = (slice(max(0, at - half), at + half) for at, half in sides)
            covered = len(range(size[0])[rows]) * len(range(size[1])[columns])
            cut.append(cls(1 - covered / (size[0] * size[1]), (rows, columns)))
        if not mixup:
            return cut
        return [
            one if fades else other for fades, one, other in zip(draws.random(number) < 0.5, faded, cut, strict=True)
        ]

    def images(self, x: Tensor, others: Tensor) -> Tensor:
        """``x``, ``(B, C, H, W)``, which is changed, with its share of ``others``."""
        if self.box is None:
            return x.mul_(self.kept).add_(others * (1 - self.kept))  # one add_(alpha=) may round otherwise at the end
        rows, columns = self.box
        x[:, :, rows, columns] = others[:, :, rows, columns]
        return x

    def labels(self, y: Tensor, others: Tensor, classes: int) -> Tensor:
        """The share of each class, float32 ``(B, classes)``, of labels ``(B,)`` and those of the others."""
        numbers = torch.arange(classes, device=y.device)
        own, other = ((labels[:, None] == numbers).float() for labels in (y, others))  # one_hot reads labels back
        return own.mul_(self.kept).add_(other.mul_(1 - self.kept))
