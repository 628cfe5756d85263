"""What learning curves say after a few epochs, and what successive halving finds with them.

    python scripts/make_table.py data.root=cifar10.zip --seeds 1 --first-seed 3 --networks 48 --out part.csv
    python scripts/halving.py part_curves.csv

Kendall's tau with the mean accuracy of the trainings in the package's table, which have other seeds. Then searches are
replayed, by the surrogate and at random. Networks that have no curve in the file get one that has the shape of curves
at their accuracy and the deviations of a network that has one.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from nas.cost import PathFlops, PathParameters
from nas.score.benchmark import TABLE
from nas.search.objectives import TRAINED, Limits
from nas.search.propose.proposers import Proposer, RandomProposer, Trial
from nas.search.propose.surrogate_proposer import SurrogateProposer
from nas.search.trained.rungs import Halving
from nas.settings import ChainSettings
from nas.space import Architecture, build_space

EPOCHS, FINALS, BATCH = (1, 2, 4, 8), 4, 4
SPACE = build_space(ChainSettings(widths=[8, 16]), 3, 32, 10)
SHARES = {"all": 1.0, "half": 0.5}
"""Replays look among all networks, and among the half with fewest FLOPs."""


@dataclass(frozen=True)
class Curve:
    """A training of one network, and what other trainings of it reach.

    Attributes:
        losses: training loss, an epoch each.
        accuracies: on validation images, 0 to 1, likewise.
        again: test accuracy of one further training, for the finals.
        truth: mean test accuracy of further ones.
    """

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    again: float
    truth: float

    @property
    def mean(self) -> float:
        """Test accuracy over the three trainings of the table."""
        return (self.again + 2 * self.truth) / 3


Curves = Mapping[Architecture, Curve]
Costs = Mapping[str, Callable[[Architecture], float]]


def read(path: Path, table: Path) -> tuple[Curves, Curves]:
    """The networks of both files, and those of the table with no curve yet."""
    own = {row[0]: tuple(map(float, row[2:])) for row in _rows(path)}
    known, others = dict[Architecture, Curve](), dict[Architecture, Curve]()
    for name, *values in _rows(table):
        again, *more = map(float, values)
        numbers = own.get(name, ())
        half = len(numbers) // 2
        (known if numbers else others)[SPACE.decode(name)] = Curve(numbers[:half], numbers[half:], again, fmean(more))
    return known, others


def _rows(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(line for line in file if not line.startswith("#")))[1:]


def modelled(known: Curves, others: Curves, seed: int) -> Curves:
    """All networks with a curve: those of ``known``, and for ``others`` the shape that goes with their accuracy."""

    def powers(curves: Curves) -> np.ndarray:
        return np.vander([curve.mean for curve in curves.values()], 3)

    own = np.array([[*curve.losses, *curve.accuracies] for curve in known.values()])
    shape = np.linalg.lstsq(powers(known), own, rcond=None)[0]
    deviations, half = own - powers(known) @ shape, own.shape[1] // 2
    deviations *= (len(own) / (len(own) - 3)) ** 0.5  # three parameters are fitted
    drawn = np.random.default_rng(seed).integers(0, len(own), len(others))
    numbers = powers(others) @ shape + deviations[drawn]
    found = {
        architecture: Curve((*row[:half],), (*row[half:],), curve.again, curve.truth)
        for (architecture, curve), row in zip(others.items(), numbers.tolist(), strict=True)
    }
    return {**known, **found}


def agreement(curves: Curves, value: Callable[[Curve], float]) -> float:
    """Kendall's tau with the mean of all trainings of the table."""
    from scipy.stats import kendalltau

    truth = [curve.mean for curve in curves.values()]
    return float(kendalltau([value(curve) for curve in curves.values()], truth).statistic)


class Given(Proposer):
    """Proposes networks in a given order."""

    def __init__(self, limits: Limits, order: Sequence[Architecture]) -> None:
        super().__init__(SPACE, limits, 0)
        self._order = order

    def ask(self, number: int, taken: Any) -> Trial | None:
        return Trial(number, self._order[number])


def replay(
    curves: Curves, rungs: Sequence[int], proposer: Proposer, trainings: int, costs: Costs
) -> tuple[int, float, int]:
    """Search by ``trainings``; returns their epochs, the regret in points of accuracy, and how many were whole.

    The best few of the whole trainings are trained once more, and the mean of both chooses.
    """
    halving, trials = Halving(rungs), list[Trial]()

    def train(trial: Trial) -> Trial:
        curve = curves[trial.architecture]
        last = len(curve.losses)
        stops = (e for e in rungs if e >= trial.epochs and not halving.goes_on(trial, e, curve.losses[:e], trials))
        epochs = next(stops, last)
        cost, whole = {name: float(one(trial.architecture)) for name, one in costs.items()}, epochs == last
        values = {**cost, TRAINED.name: curve.accuracies[-1]} if whole else {}
        found = {"finished": True, "epochs": epochs, "train_losses": curve.losses[:epochs], "stopped": not whole}
        return Trial(trial.number, trial.architecture, values, feasible=whole, known=cost, **found)

    while len(trials) < trainings:
        proposer.tell(halving.estimated(trials, proposer.limits))
        taken, batch = {trial.architecture for trial in trials}, list[Trial]()
        for number in range(len(trials), min(len(trials) + BATCH, trainings)):
            trial = proposer.ask(number, taken)
            assert trial is not None
            batch.append(trial)
            taken.add(trial.architecture)
        for trial in batch:
            trials.append(train(trial))
            while promoted := halving.promoted(trials):
                trials[promoted[0].number] = train(promoted[0])
    whole = [trial for trial in trials if not trial.stopped]
    finals = sorted(whole, key=lambda trial: -trial.values[TRAINED.name])[:FINALS]
    chosen = max(finals, key=lambda trial: trial.values[TRAINED.name] + curves[trial.architecture].again)
    best = max(curves[a].truth for a in proposer.limits.allowed() if a in curves)
    return sum(trial.epochs for trial in trials), 100 * (best - curves[chosen.architecture].truth), len(whole)


def limits_and_costs() -> tuple[dict[str, Limits], Costs]:
    """By name, the limits of ``SHARES``; and what networks of the space cost."""
    supernet = SPACE.supernet(0).eval()
    flops, parameters = PathFlops(SPACE, supernet, (3, 32, 32)), PathParameters(SPACE, supernet)
    costs: Costs = {"flops": flops, "parameters": parameters}
    known = sorted(map(flops, SPACE.enumerate()))
    bounds = {name: known[round(share * (len(known) - 1))] for name, share in SHARES.items()}
    return {name: Limits(SPACE, {"flops": bound}, costs) for name, bound in bounds.items()}, costs


def replays(known: Curves, others: Curves, rungs: Sequence[int], sampler: str, n: int, repeats: int) -> dict[str, Any]:
    """The mean of replays; all kinds of search see the same curves in replay ``k``."""
    limits, costs = limits_and_costs()
    columns = {"cost": [lambda many, one=one: [float(one(a)) for a in many] for one in costs.values()]}
    found = []
    for seed in range(repeats):
        if sampler == "in the file":
            order = random.Random(seed).sample(list(known), n)
            found.append(replay(known, rungs, Given(Limits(SPACE, {}, {}), order), n, {}))
            continue
        curves = modelled(known, others, seed)
        for each in limits.values():
            proposer: Proposer = RandomProposer(SPACE, each, seed)
            if sampler == "surrogate":
                proposer = SurrogateProposer(SPACE, each, seed, TRAINED, costs, columns)
            found.append(replay(curves, rungs, proposer, n, costs))
    epochs, regrets, whole = zip(*found, strict=True)
    share = fmean(epochs) / (n * len(next(iter(known.values())).losses))
    error = stdev(regrets) / len(regrets) ** 0.5
    about = {"sampler": sampler, "rungs": ",".join(map(str, rungs)) or "none", "trainings": n}
    return {**about, "share": share, "whole": fmean(whole), "regret": fmean(regrets), "error": error}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="halving", description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path, help="OUT_curves.csv of make_table.py")
    parser.add_argument("--table", type=Path, default=TABLE, help="of the same space, at least two other seeds")
    parser.add_argument("--repeats", type=int, default=100, help="replays (default 100)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    asked = parser.parse_args()
    known, others = read(asked.curves, asked.table)
    kinds: dict[str, Callable[[Curve, int], float]] = {
        "training loss of the last epoch": lambda curve, epoch: -curve.losses[epoch - 1],
        "sum of training losses": lambda curve, epoch: -sum(curve.losses[:epoch]),
        "validation accuracy": lambda curve, epoch: curve.accuracies[epoch - 1],
    }
    taus = [
        {"score": name, **{f"after_{e}": agreement(known, lambda curve, e=e, f=f: f(curve, e)) for e in EPOCHS}}
        for name, f in kinds.items()
    ]
    print(f"{len(known)} networks, tau after {EPOCHS} epochs")
    for row in taus:
        print(f"  {row['score']:32}", "  ".join(f"{row[f'after_{e}']:.3f}" for e in EPOCHS))
    plans = [("in the file", 20), ("random", 20), ("surrogate", 20), ("surrogate", 10)]
    rows = []
    for sampler, n in plans:
        for rungs in ((), (1, 2, 4)) if n == 20 else ((),):
            rows.append(replays(known, others, rungs, sampler, n, asked.repeats))
            row = rows[-1]
            print(f"  {sampler:12} {n} trainings, rungs {row['rungs']:6} {row['share']:.0%} of the epochs,", end=" ")
            print(f"{row['whole']:.1f} whole, regret {row['regret']:.2f} +- {row['error']:.2f}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"networks": len(known), "taus": taus, "replays": rows}, indent=1))


if __name__ == "__main__":
    main()
