"""What TensorBoard shows drawn: the supernet, and how the choices of its slots do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas.draw import draw_choices, draw_supernet
from nas.nn import indices_of
from nas.space import Architecture, Slot
from nas.track.means import BranchMeans
from nas.track.tags import ACCURACY, ACCURACY_PLOT, PROBABILITY, PROBABILITY_PLOT, SUPERNET, Tags

MEAN = "Mean validation accuracy of the {} evaluated subnetworks that contain a choice"
OF_ONE = "Validation accuracy of the one evaluated subnetwork that contains a choice"
CHOICES = {ACCURACY_PLOT: (ACCURACY, MEAN), PROBABILITY_PLOT: (PROBABILITY, "The gate's probability of each choice")}
"""Tag -> which curves, title."""


def draw_run(
    slots: Sequence[Slot],
    shares: Sequence[Sequence[float]],
    means: BranchMeans,
    evaluated: Sequence[tuple[Architecture, float]],
    lines: Sequence[Mapping[str, float]],
) -> dict[str, bytes]:
    """PNGs by tag; those of curves only where a slot has two choices to be compared.

    Args:
        slots: of the search space.
        shares: of the steps, of each slot's choices.
        means: the accuracy of each branch.
        evaluated: the subnetworks behind them and their accuracies, in [0, 1].
        lines: of ``metrics.jsonl``.
    """
    known: list[dict[int, float]] = [{} for _ in slots]
    for (slot, choice), accuracy in means.means().items():
        known[slot][choice] = accuracy
    drawn = {SUPERNET: draw_supernet(slots, shares, known)}
    if not evaluated:
        return drawn
    numbers = sorted(int(row[2]) for row in means.rows())
    many = f"{numbers[0]} to {numbers[-1]}" if numbers[0] < numbers[-1] else f"{numbers[0]}"
    best, accuracy = max(evaluated, key=lambda found: found[1])
    stars = [indices_of(entry) for entry in best]
    for tag, (kind, title) in CHOICES.items():
        curves = Tags(slots).read(kind, lines)
        if any(len(curve) > 1 for curve in curves):
            title = OF_ONE if title == MEAN and numbers[-1] == 1 else title.format(many)
            text = f"{title}; star: the best subnetwork, {accuracy:.1%}"
            drawn[tag] = draw_choices(slots, curves, text, stars)
    return drawn
