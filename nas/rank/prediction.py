"""What a predictor says of the architectures of a table, and sums of the ranks of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.score import rank_sum

KINDS = ("supernet", "sum", "learned", "proxy", "trivial")


@dataclass(frozen=True, eq=False)
class Unseen:
    """What the draws of a predictor are held against that has learned from the truth."""

    trainings: int
    """Number of trainings that each draw has learned from, of as many architectures."""
    architectures: Tensor
    """``(draws, n)``, bool: the other architectures."""
    truth: Tensor
    """``(draws, n)``, float64: the mean over the table's other trainings."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The values that one predictor gives to the architectures."""

    name: str
    kind: str
    """One of ``KINDS``."""
    values: Tensor
    """``(draws, n)``, float64: a draw is a checkpoint, or a draw of initial weights."""
    lower_is_better: bool = False
    unseen: Unseen | None = None
    """None where a draw has seen nothing of the truth, and is held against all of it."""

    @property
    def goodness(self) -> Tensor:
        """The values with the sign for which larger means better."""
        return -self.values if self.lower_is_better else self.values


def add_ranks(members: Sequence[Prediction]) -> Prediction:
    """Sum the members' ranks, larger is better; equal values share their mean rank.

    A member with fewer draws than another repeats its draws.
    """
    sums, higher = [], {member.name: not member.lower_is_better for member in members}
    for draw in range(max(len(member.values) for member in members)):
        columns = {member.name: member.values[draw % len(member.values)].tolist() for member in members}
        sums.append(rank_sum(columns, higher))
    return Prediction(" + ".join(higher), "sum", torch.tensor(sums, dtype=torch.float64))
