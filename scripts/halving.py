"""What learning curves say after a few epochs, and what successive halving finds with them.

    python scripts/make_table.py data.root=cifar10.zip --seeds 1 --first-seed 3 --networks 96 --out part.csv
    python scripts/halving.py part_curves.csv --json halving.json

Rank correlation (Kendall's tau) with the mean accuracy of the trainings in the table of the package, which have other
seeds; and searches replayed on the networks of the curves, which are trained one after the other in random order.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.score.benchmark import TABLE
from nas.search.objectives import TRAINED
from nas.search.proposers import Trial
from nas.search.rungs import Halving, score
from nas.space import Architecture

EPOCHS = (1, 2, 4, 8)
FINALS = 4


@dataclass(frozen=True)
class Curve:
    """A training of one network, and what other trainings of it reach.

    Attributes:
        losses: training loss, an epoch each.
        accuracies: on validation images, 0 to 1, likewise.
        again: test accuracy of one further training, for the finals.
        truth: mean test accuracy of further ones.
    """

    architecture: Architecture
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    again: float
    truth: float


def read(curves: Path, table: Path) -> list[Curve]:
    """The networks that are in both files."""
    accuracies = {row[0]: [float(value) for value in row[1:]] for row in _rows(table)}
    found = []
    for name, _, *values in _rows(curves):
        numbers, half = tuple(map(float, values)), len(values) // 2
        again, *others = accuracies[name]
        architecture = tuple(map(int, name.split("-")))
        found.append(Curve(architecture, numbers[:half], numbers[half:], again, statistics.fmean(others)))
    return found


def _rows(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(line for line in file if not line.startswith("#")))[1:]


def agreement(curves: Sequence[Curve], value: Callable[[Curve], float]) -> float:
    """Kendall's tau with the mean of all trainings of the table."""
    from scipy.stats import kendalltau

    truth = [(curve.again + 2 * curve.truth) / 3 for curve in curves]
    return float(kendalltau([value(curve) for curve in curves], truth).statistic)


def replay(curves: Sequence[Curve], rungs: Sequence[int], order: Sequence[int]) -> tuple[int, float, int]:
    """Train these networks one after the other; returns epochs, regret in points of accuracy, and whole trainings.

    The best few of the whole trainings are trained once more, and the mean of both chooses.
    """
    halving, trials, last = Halving(rungs), list[Trial](), len(curves[0].losses)

    def train(trial: Trial) -> Trial:
        losses = curves[order[trial.number]].losses
        stops = (e for e in rungs if e >= trial.epochs and not halving.goes_on(trial, e, losses[:e], trials))
        epochs = next(stops, last)
        values = {TRAINED.name: curves[order[trial.number]].accuracies[-1]} if epochs == last else {}
        found = {"finished": True, "epochs": epochs, "train_losses": losses[:epochs], "stopped": epochs < last}
        return Trial(trial.number, trial.architecture, values, **found)

    for number, place in enumerate(order):
        trials.append(train(Trial(number, curves[place].architecture)))
        while promoted := halving.promoted(trials):
            trials[promoted[0].number] = train(promoted[0])
    whole = [(trial.values[TRAINED.name], order[trial.number]) for trial in trials if not trial.stopped]
    finals = sorted(whole, reverse=True)[:FINALS]
    _, chosen = max((accuracy + curves[place].again, place) for accuracy, place in finals)
    best = max(curve.truth for curve in curves)
    return sum(trial.epochs for trial in trials), 100 * (best - curves[chosen].truth), len(whole)


def replays(curves: Sequence[Curve], rungs: Sequence[int], trainings: int, repeats: int) -> dict[str, Any]:
    """The mean of replays, each of other networks in another order, with the standard error of the regret."""
    draws = [random.Random(seed).sample(range(len(curves)), trainings) for seed in range(repeats)]
    epochs, regrets, whole = zip(*(replay(curves, rungs, order) for order in draws), strict=True)
    error = statistics.stdev(regrets) / repeats**0.5
    share = statistics.fmean(epochs) / (trainings * len(curves[0].losses))
    found = {"epochs": statistics.fmean(epochs), "share": share, "whole": statistics.fmean(whole)}
    return {"rungs": list(rungs), "trainings": trainings, **found, "regret": statistics.fmean(regrets), "error": error}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="halving", description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path, help="OUT_curves.csv of make_table.py")
    parser.add_argument("--table", type=Path, default=TABLE, help="of the same networks, at least two other seeds")
    parser.add_argument("--repeats", type=int, default=200, help="replays (default 200)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    asked = parser.parse_args()
    curves = read(asked.curves, asked.table)
    kinds: dict[str, Callable[[Curve, int], float]] = {
        "sum of training losses": lambda curve, epoch: -score(curve.losses, epoch),
        "training loss": lambda curve, epoch: -curve.losses[epoch - 1],
        "validation accuracy": lambda curve, epoch: curve.accuracies[epoch - 1],
    }
    taus = [
        {"score": name, **{str(e): agreement(curves, lambda curve, e=e, f=f: f(curve, e)) for e in EPOCHS}}
        for name, f in kinds.items()
    ]
    print(f"{len(curves)} networks, tau after epochs")
    for row in taus:
        print(f"  {row['score']:24}", "  ".join(f"{e}: {row[str(e)]:.3f}" for e in EPOCHS))
    rows = [
        replays(curves, rungs, n, asked.repeats)
        for n in (12, 24, 48)
        for rungs in ((), (1,), (2,), (1, 2, 4), (2, 4))
        if n <= len(curves)
    ]
    for row in rows:
        what = f"{row['trainings']} trainings, rungs {row['rungs']}"
        print(f"  {what:36} epochs {row['epochs']:6.1f} ({row['share']:.0%}), whole {row['whole']:5.1f},", end=" ")
        print(f"regret {row['regret']:.2f} +- {row['error']:.2f}")
    if asked.json:
        asked.json.write_text(json.dumps({"networks": len(curves), "taus": taus, "replays": rows}, indent=1))


if __name__ == "__main__":
    main()
