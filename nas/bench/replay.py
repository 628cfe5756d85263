"""Searches by trainings, replayed from a table in which every network of a space was trained several times."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations

import torch

from nas.cost import PathFlops, PathParameters
from nas.errors import DataError
from nas.score import BenchmarkTable, kendall_tau, load_table
from nas.score.benchmark import OWN, TABLE
from nas.search.objectives import TRAINED, Limits
from nas.search.propose.proposers import Proposer, Trial
from nas.search.propose.stages import Budget, Stages
from nas.search.propose.surrogate import Column, Surrogate
from nas.search.propose.surrogate_proposer import SurrogateProposer
from nas.seeds import generator
from nas.settings import SpaceSettings
from nas.settings.rank import FEATURES
from nas.space import Architecture, SearchSpace, build_space, infer_widths

BATCH, FINALS = 4, 4
"""Networks proposed at a time, and trained once more, as is the default of a search."""
IMAGE = (3, 32, 32)
LOSSES = TABLE.with_name("chain_supernet.csv")


@dataclass(frozen=True, eq=False)
class Truth:
    """A space whose networks were all trained several times.

    Attributes:
        costs: FLOPs and parameters, by name, of each network.
        losses: of each network as a subnetwork of a supernet; none where there is no supernet.
    """

    space: SearchSpace
    table: BenchmarkTable
    costs: dict[str, dict[Architecture, float]]
    losses: dict[Architecture, float]

    @classmethod
    def of(cls, settings: SpaceSettings, source: str) -> Truth:
        """Read a table; the package's own comes with the losses of a supernet.

        Raises:
            DataError: it cannot be read, a network is missing, or has fewer than three trainings.
        """
        space = build_space(settings)
        table = load_table(source, space)
        complete = len(table.architectures) == space.size and table.accuracies.shape[1] >= 3
        if not complete or bool(table.accuracies.isnan().any()):
            rule = "must have three trainings of each network: to search, for the finals, and held out"
            raise DataError("macro", source, rule, "name a whole table")
        supernet = space.supernet()
        infer_widths(supernet, IMAGE)
        counted = {"flops": PathFlops(space, supernet, IMAGE), "parameters": PathParameters(space, supernet)}
        costs = {name: {a: float(cost(a)) for a in table.architectures} for name, cost in counted.items()}
        return cls(space, table, costs, supernet_losses(space) if source == OWN else {})

    def limits(self, percentile: int) -> Limits:
        """A limit on FLOPs that so many percent of the networks keep."""
        flops = torch.tensor(list(self.costs["flops"].values()), dtype=torch.float64)
        bound = float(flops.quantile(percentile / 100))
        return Limits(self.space, {"flops": bound}, {name: cost.__getitem__ for name, cost in self.costs.items()})

    def columns(self, features: Sequence[str]) -> dict[str, list[Column]]:
        """What a surrogate sees beside the choices."""
        found: dict[str, list[Column]] = {}
        if "cost" in features:
            found["cost"] = [partial(looked_up, cost) for cost in self.costs.values()]
        if "supernet" in features and self.losses:
            found["supernet"] = [partial(looked_up, self.losses)]
        return found

    def proposer(self, limits: Limits, seed: int, features: Sequence[str] = FEATURES) -> SurrogateProposer:
        """The surrogate as a search builds it."""
        costs = {name: cost.__getitem__ for name, cost in self.costs.items()}
        how = {"choices": "choices" in features, "pairs": "pairs" in features}
        return SurrogateProposer(self.space, limits, seed, TRAINED, costs, self.columns(features), **how)

    def best(self, limits: Limits) -> Architecture:
        """The best network within the limits, by the mean of all trainings."""
        mean = dict(zip(self.table.architectures, self.table.mean.tolist(), strict=True))
        return max(limits.allowed(), key=mean.__getitem__)

    @property
    def orders(self) -> int:
        """Ways to choose the trainings that candidates and finals see."""
        seeds = self.table.accuracies.shape[1]
        return seeds * (seeds - 1)


def looked_up(known: Mapping[Architecture, float], architectures: Sequence[Architecture]) -> list[float]:
    """The value of each architecture."""
    return [known[a] for a in architectures]


def supernet_losses(space: SearchSpace) -> dict[Architecture, float]:
    """The losses of the subnetworks of a supernet on the package's own chain, from ``LOSSES``."""
    lines = [line for line in LOSSES.read_text().splitlines() if not line.startswith("#")]
    return {space.decode(row["architecture"]): float(row["loss"]) for row in csv.DictReader(lines)}


class InOrder(Proposer):
    """Proposes the networks within the limits in the order of a value, the largest first."""

    def __init__(self, space: SearchSpace, limits: Limits, seed: int, value: Mapping[Architecture, float]) -> None:
        super().__init__(space, limits, seed)
        self._order = sorted(limits.allowed(), key=lambda a: -value[a])

    def ask(self, number: int, taken: Set[Architecture]) -> Trial | None:
        return Trial(number, self._order[number]) if number < len(self._order) else None


def columns_of(truth: Truth, repeat: int) -> tuple[int, int]:
    """Which trainings the candidates and the finals of a repeat see."""
    pairs = list(permutations(range(truth.table.accuracies.shape[1]), 2))
    return pairs[repeat % len(pairs)]


def replay(truth: Truth, proposer: Proposer, trainings: int, columns: Sequence[int]) -> Architecture:
    """The winner of a search whose trainings are looked up.

    Args:
        proposer: of candidates.
        trainings: of candidates and finals together.
        columns: of the table: what the candidates reach, and what the finalists reach.
    """
    stages = Stages(proposer, Budget(trainings - FINALS, FINALS, 0), {"flops": truth.costs["flops"].__getitem__})
    row = {a: i for i, a in enumerate(truth.table.architectures)}
    trials, taken = list[Trial](), set[Architecture]()
    stages.tell(trials)
    while True:
        batch = list[Trial]()
        for number in stages.batch_of(len(trials), BATCH):
            trial = stages.ask(number, taken)
            if trial is not None:
                batch.append(trial)
                taken.add(trial.architecture)
        if not batch and stages.used_up:
            break
        for trial in batch:
            accuracy = float(truth.table.accuracies[row[trial.architecture], columns[trial.draw]])
            told = replace(trial, values={TRAINED.name: accuracy}, feasible=True, finished=True)
            trials.append(told)
        stages.tell(trials)
    winner = stages.winner(trials)
    assert winner is not None, "all trainings succeed"
    return winner


def regret(truth: Truth, best: Architecture, found: Architecture, columns: Sequence[int]) -> tuple[float, float]:
    """What a network lacks of the best one, in points of accuracy.

    Returns:
        By the mean of all trainings, and by the trainings that are not in ``columns``.
    """
    row = {a: i for i, a in enumerate(truth.table.architectures)}
    unseen = [i for i in range(truth.table.accuracies.shape[1]) if i not in columns]
    lost = truth.table.accuracies[row[best]] - truth.table.accuracies[row[found]]
    return 100 * float(lost.mean()), 100 * float(lost[unseen].mean())


def unseen_tau(
    truth: Truth, trainings: int, repeat: int, features: Sequence[str] = FEATURES, most: int = 2000
) -> float:
    """Kendall's tau of a surrogate's predictions with the mean accuracy, on networks that it was not told about.

    Args:
        trainings: one each of random networks.
        most: as many of the others are compared.
    """
    order = torch.randperm(len(truth.table.architectures), generator=generator(repeat, "tau"))
    seen, unseen = order[:trainings].tolist(), order[trainings : trainings + most].tolist()
    name, column = truth.table.architectures, repeat % truth.table.accuracies.shape[1]
    surrogate = Surrogate(
        truth.space, truth.columns(features), choices="choices" in features, pairs="pairs" in features
    )
    surrogate.fit([name[i] for i in seen], truth.table.accuracies[seen, column].tolist())
    mean, _ = surrogate.predict([name[i] for i in unseen])
    return kendall_tau(torch.from_numpy(mean), truth.table.mean[unseen])
