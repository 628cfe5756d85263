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
    """The winner of a search against random networks, trained on the same fresh seeds.

    The winner is compared with the *mean* random network. One that was picked at random may be better than that too,
    and is then shown to be; ``reached`` and ``share`` say how rare a network as good as the winner is.

    Attributes:
        pairs: all of them; those with a training that failed say nothing about the difference.
        drawn_from: what the random networks are, in words: ``random networks of the same FLOPs``.
        difference: the mean difference in accuracy, 0 to 1, above 0 where the winner is better.
        low, high: its 95 % interval, of Student's t over the pairs.
        shown: the interval lies above 0, and no training of the winner failed.
        reached: random networks whose one training was at least as good as the mean of the winner's.
        share: of all such networks, those that would do so, by the spread of these: the tail of Student's t.
    """

    pairs: list[Pair]
    drawn_from: str
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

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        difference, low, high = (round(100 * x, 1) or 0.0 for x in (self.difference, self.low, self.high))
        interval = f"{difference:.1f} points [{low:.1f}, {high:.1f}]"
        than = f"than the mean of {len(self.whole)} {self.drawn_from}"
        return f"better by {interval} {than}" if self.shown else f"not shown to be better {than}: {interval}"

    @property
    def remarks(self) -> list[str]:
        """What else a reader of the sentence should know, in lines."""
        number, share = len(self.whole), f"{100 * self.share:.0f}" if self.share >= 0.01 else "less than 1"
        would = f"by their spread {share} % of such networks would, trained once"
        lines = [f"{self.reached} of the {number} reached the winner's mean; {would}"]
        failed = sum(pair.winner is None for pair in self.pairs), sum(pair.random is None for pair in self.pairs)
        if any(failed):
            lines.append(f"trainings that failed: {failed[0]} of the winner, {failed[1]} of random networks")
        return lines


def verdict_of(pairs: Sequence[Pair], drawn_from: str) -> Verdict | None:
    """The verdict of some pairs; None of fewer than two with both accuracies, which have no spread."""
    from scipy.special import stdtr, stdtrit  # here, since only a search by trainings needs Student's t

    whole = _whole(pairs)
    number = len(whole)
    if number < 2:
        return None
    winners, randoms = zip(*whole, strict=True)
    differences = [one - other for one, other in whole]
    difference = fmean(differences)
    half = float(stdtrit(number - 1, (1 + LEVEL) / 2)) * stdev(differences) / sqrt(number)
    shown = difference - half > 0 and all(pair.winner is not None for pair in pairs)
    # Of one random network more: it lies around the mean of these, and both means are uncertain themselves.
    spread = sqrt(stdev(randoms) ** 2 * (1 + 1 / number) + stdev(winners) ** 2 / number)
    share = float(stdtr(number - 1, -difference / spread)) if spread else float(difference <= 0)
    reached = sum(random >= fmean(winners) for random in randoms)
    return Verdict([*pairs], drawn_from, difference, difference - half, difference + half, shown, reached, share)


def _whole(pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    return [(pair.winner, pair.random) for pair in pairs if pair.winner is not None and pair.random is not None]
