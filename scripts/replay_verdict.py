"""How often a verdict shows a winner that is good, and one that is not, replayed on the table of the package.

    python scripts/replay_verdict.py --out verdict.json

The table has 256 networks with three trainings each. For every network that has at least 8 others of its FLOPs, a
verdict is made of simulated trainings: a network's mean in the table, and the residual of some training in the table.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help answers without torch
    from nas.space import Architecture, SearchSpace

FEWEST, RARE = 8, 0.08
PAIRS = (8, 16)


def classes() -> Iterator[tuple[float, list[float]]]:
    """The mean accuracy of each network, and those of the others of its FLOPs if there are at least 8."""
    from nas.cost import PathFlops
    from nas.cost.same_cost import other_networks, same_cost

    space, known = _table()
    flops = PathFlops(space, space.supernet(), (3, 32, 32))
    for network, trained in known.items():
        others = other_networks(space, network, same_cost([flops], network), 0)
        if len(others) >= FEWEST:
            yield fmean(trained), [fmean(known[other]) for other in others]


def residuals() -> list[float]:
    """How far each training is from the mean of its network, with the spread that single trainings have."""
    found = []
    for trained in _table()[1].values():
        wider = (len(trained) / (len(trained) - 1)) ** 0.5
        found += [wider * (one - fmean(trained)) for one in trained]
    return found


def _table() -> tuple[SearchSpace, dict[Architecture, list[float]]]:
    from nas.score.benchmark import load_table
    from nas.settings import ChainSettings
    from nas.space import build_space

    space = build_space(ChainSettings(widths=[8, 16], depths=[2, 2], strides=[1, 2]), 3, 32, 10)
    table = load_table("own", space)
    return space, dict(zip(table.architectures, table.accuracies.tolist(), strict=True))


def replay(draws: int) -> list[dict[str, object]]:
    """A row for each kind of winner and number of pairs."""
    from nas.search.trained.verdict import Pair, verdict_of

    rng, noise, networks = random.Random(0), residuals(), list(classes())
    kinds = {
        "the best of its FLOPs": [(one, others) for one, others in networks if one > max(others)],
        "the second best": [(one, others) for one, others in networks if sum(one < other for other in others) == 1],
        "picked at random": networks,
        "as good as the mean": [(fmean(others), others) for _, others in networks],
        "a new random one each time": [(None, others) for _, others in networks],
    }
    rows = []
    for kind, winners in kinds.items():
        for number in PAIRS:
            found = []
            for one, others in winners:
                for _ in range(-(-draws * len(networks) // len(winners))):
                    order = rng.sample(others, len(others))
                    pairs = [
                        Pair(draw, "", (rng.choice(others) if one is None else one) + rng.choice(noise), other)
                        for draw, other in enumerate(order[i % len(order)] + rng.choice(noise) for i in range(number))
                    ]
                    verdict = verdict_of(pairs, "")
                    truly = 0.0 if one is None else one - fmean(others)
                    found.append((verdict.shown, verdict.low <= truly <= verdict.high, verdict.share <= RARE, truly))
            shown, covered, rare, better = map(fmean, zip(*found, strict=True))
            row = {"winner": kind, "pairs": number, "better_points": 100 * better, "shown": shown, "covered": covered}
            rows.append({**row, "rare": rare, "networks": len(winners), "verdicts": len(found)})
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="replay_verdict", description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=25, help="verdicts on each network, on average (default 25)")
    parser.add_argument("--out", type=Path, help="JSON to write")
    asked = parser.parse_args()
    rows = replay(asked.draws)
    for row in rows:
        print("  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    if asked.out:
        asked.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
