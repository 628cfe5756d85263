"""Classes of uneven size: an order that draws them equally often, and weights that make up for it in the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.data.images import ImageSet


def balanced_order(labels: Tensor, length: int, draws: torch.Generator) -> Tensor:
    """``length`` indices into ``labels``, shuffled, in which classes come equally often, as do the images of a class.

    Where that does not come out even, some come once more. A class without images is left out.
    """
    members = [rows for rows in labels.argsort(stable=True).split(labels.bincount().tolist()) if len(rows)]
    each, rest = divmod(length, len(members))
    more = (torch.randperm(len(members), generator=draws) < rest).tolist()
    chosen = []
    for rows, one in zip(members, more, strict=True):
        rounds = -(-(each + 1) // len(rows))
        orders = torch.rand(rounds, len(rows), generator=draws).argsort(1).flatten()
        chosen.append(rows[orders[: each + one]])
    return torch.cat(chosen)[torch.randperm(length, generator=draws)]


def class_weights(images: ImageSet) -> Tensor:
    """``N / (K n_k)`` for a class with ``n_k`` of the ``N`` images, float32 ``(classes,)``: 1 on average over images.

    ``K`` counts the classes that have images; the others get 0.
    """
    counts = images.labels.bincount(minlength=len(images.classes)).float()
    return torch.where(counts > 0, len(images) / ((counts > 0).sum() * counts), 0.0)
