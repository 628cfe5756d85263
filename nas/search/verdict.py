"""Whether the winner of a search is better than random networks of its cost, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

LEVEL = 0.95
"""Of the interval."""


@dataclass(frozen=True)
class Pair:
    """Two trainings on one draw.

    Attributes:
        draw: the number of the seed that both were trained with.
        network: the random one, as text.
        winner, random: their accuracies, 0 to 1; None where the training failed.
    """

    draw: int
    network: str
    winner: float | None
    random: float | None


@dataclass(frozen=True)
class Verdict:
    """The winner against random networks, trained on the same fresh seeds.

    What is compared is the winner with the *mean* random network. A network picked at random may be better than that,
    and then it is shown to be in its turn; ``reached`` and ``share`` say how many are as good as the winner.

    Attributes:
        pairs: all of them; those with a training that failed say nothing about the difference.
        difference: the mean difference in accuracy, above 0 where the winner is better.
        low, high: its 95 % interval, of Student's t over the pairs.
        shown: the interval lies above 0, and no training of the winner failed.
        reached: random networks whose one training was at least as good as the mean of the winner's.
        share: of all random networks, those that would do so by the spread of these: the tail of Student's t.
    """

    pairs: list[Pair]
    difference: float
    low: float
    high: float
    shown: bool
    reached: int
    share: float

    @property
    def whole(self) -> list[tuple[float, float]]:
        """The accuracies of the winner and of the random network in each pair that has both."""
        return _whole(self.pairs)

    def interval(self) -> str:
        """The difference in points of accuracy, with its interval."""
        return f"{100 * self.difference:.1f} points [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def verdict_of(pairs: Sequence[Pair]) -> Verdict | None:
    """The verdict of some pairs; None of fewer than two with both accuracies, which have no spread."""
    from scipy.stats import t  # here, since only a search by trainings needs it

    whole = _whole(pairs)
    number = len(whole)
    if number < 2:
        return None
    winners, randoms = zip(*whole, strict=True)
    differences = [one - other for one, other in whole]
    difference = fmean(differences)
    half = float(t.ppf((1 + LEVEL) / 2, number - 1)) * stdev(differences) / sqrt(number)
    # What one more random network would reach, against a mean that is itself uncertain.
    spread = sqrt(stdev(randoms) ** 2 * (1 + 1 / number) + stdev(winners) ** 2 / number)
    share = float(t.sf(difference / spread, number - 1)) if spread else float(difference <= 0)
    shown = difference - half > 0 and all(pair.winner is not None for pair in pairs)
    reached = sum(random >= fmean(winners) for random in randoms)
    return Verdict([*pairs], difference, difference - half, difference + half, shown, reached, share)


def _whole(pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    return [(pair.winner, pair.random) for pair in pairs if pair.winner is not None and pair.random is not None]
