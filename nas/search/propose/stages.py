"""What follows a search by trainings: finals of the best, then the winner beside random networks of its cost.

One training says little about the best networks of a search: the first of many was lucky too. So the best few are
trained once more, on a fresh seed, and the mean of both chooses the winner. How good the winner is, these trainings
cannot say any more; further ones on fresh seeds can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

from nas.cost.same_cost import other_networks, same_cost
from nas.errors import require
from nas.search.objectives import TRAINED
from nas.search.propose.proposers import SEARCH, Proposer, Trial
from nas.search.trained.verdict import Pair, Verdict, verdict_of
from nas.settings import SearchSettings
from nas.settings.search import DEFAULT_TRAININGS
from nas.space import Architecture

FINAL, WINNER, RANDOM = STAGES = "final", "winner", "random"
"""Trainings behind the search: of one of the best, of the winner, and of a random network beside the winner."""
FEWEST = 8
"""Networks that the winner is compared with at least; if so many are not of its cost, then with any within limits."""
Costs = Mapping[str, Callable[[Architecture], float]]


@dataclass(frozen=True)
class Budget:
    """Trainings of a search: of candidates, of finals, and two for each random network of the verdict."""

    candidates: int
    finals: int
    networks: int

    @property
    def behind(self) -> int:
        """Those behind the search."""
        return self.finals + 2 * self.networks

    def __str__(self) -> str:
        finals = f"{self.finals:,} final" + ("" if self.finals == 1 else "s")
        parts = f"{self.candidates:,} to search, {finals}, {2 * self.networks:,} for the verdict"
        return f"{self.candidates + self.behind:,} trainings: {parts}"


class Stages(Proposer):
    """The proposals of another proposer, then finals, then the trainings of the verdict.

    Trainings of the finals are proposed when the search is finished, and those of the verdict when the finals are, each
    one as a batch of its own, so that all processes find work.

    Args:
        search: proposes the candidates.
        budget: how many there are to be of each; fewer candidates if ``search`` has no more.
        costs: by name, those in which a random network has to be like the winner, to within 5 %.
    """

    def __init__(self, search: Proposer, budget: Budget, costs: Costs) -> None:
        super().__init__(search.space, search.limits, search.seed)
        self.budget, self.costs = budget, costs
        self._search, self._end = search, budget.candidates
        self._trials: list[Trial] = []
        self._known: dict[Architecture, tuple[list[Architecture], int]] = {}

    def tell(self, trials: Sequence[Trial]) -> None:
        self._trials = list(trials)
        candidates = [trial for trial in trials if trial.stage == SEARCH]
        if len(candidates) < len(trials):
            self._end = len(candidates)  # the search is over, and need not learn any more
        else:
            self._search.tell(candidates)

    def batch_of(self, number: int, size: int) -> range:
        if number >= self._end:
            return range(number, number + 1)
        batch = self._search.batch_of(number, size)
        return range(batch.start, min(batch.stop, self._end))

    def ready(self, number: int) -> bool:
        return self._search.ready(number) if number < self._end else self._next(number) is not None

    def ask(self, number: int, taken: Set[Architecture]) -> Trial | None:
        if number < self._end:
            trial = self._search.ask(number, taken)
            if trial is None:
                self._end = number  # the search has looked at everything; what follows it is for the next call
            self.used_up = False
            return trial
        found = self._next(number)
        assert found is not None, "it was not ready"
        self.used_up = not found
        return found[0] if found else None

    def _next(self, number: int) -> list[Trial] | None:
        """Trial ``number`` behind the search, none if there is no more; None while others have to be finished first."""
        best = finalists(self._trials, self.budget.finals, self.costs)
        if best is None:
            return None
        at = number - self._end
        if at < len(best):
            return [Trial(number, best[at], stage=FINAL, draw=1)]
        if not all(trial.finished for trial in self._trials if trial.stage == FINAL):
            return None
        first = self.winner(self._trials)
        pair, second = divmod(at - len(best), 2)
        if first is None or pair >= self.budget.networks:
            return []
        others, _ = self._comparators(first)
        if not others:
            return []
        network = others[pair % len(others)] if second else first
        return [Trial(number, network, stage=RANDOM if second else WINNER, draw=2 + pair)]

    def winner(self, trials: Sequence[Trial]) -> Architecture | None:
        """The winner of the finals; None if there is none."""
        return winner(trials, self.budget.finals, self.costs)

    def verdict(self, trials: Sequence[Trial]) -> Verdict | None:
        """What the last stage has shown of the winner; None if it was not compared, or too many trainings failed."""
        first = self.winner(trials)
        if first is None:
            return None
        of_winner = {trial.draw: trial for trial in trials if trial.stage == WINNER}
        of_random = {trial.draw: trial for trial in trials if trial.stage == RANDOM}
        pairs = []
        for draw in sorted(of_winner.keys() & of_random.keys()):
            accuracies = (trial.values.get(TRAINED.name) for trial in (of_winner[draw], of_random[draw]))
            pairs.append(Pair(draw, self.space.encode(of_random[draw].architecture), *accuracies))
        return verdict_of(pairs, self._drawn_from(first, [trial.architecture for trial in of_random.values()]))

    def _drawn_from(self, architecture: Architecture, others: Sequence[Architecture]) -> str:
        """What the networks are that a winner was compared with, in words."""
        named = {{"flops": "FLOPs"}.get(name, name): cost for name, cost in self.costs.items()}
        names, (_, of_its_cost) = " and ".join(named), self._comparators(architecture)
        if of_its_cost >= FEWEST:
            return f"random networks of the same {names}"
        among = "within the limits" if self.limits.bounds else "of the space"
        shares = {name: fmean(map(cost, others)) / cost(architecture) for name, cost in named.items() if others}
        costs = " and ".join(f"{share:.0%} of its {name}" for name, share in shares.items())
        few = f"only {of_its_cost} other{'s have' if of_its_cost > 1 else ' has'}" if of_its_cost else "no other has"
        return f"random networks {among}, with {costs} on average ({few} as many)"

    def _comparators(self, architecture: Architecture) -> tuple[list[Architecture], int]:
        """The networks that a winner is compared with, in random order, and how many others have its cost.

        If fewer than 8 have it, they are all within the limits; none, if the winner is the only one.
        """
        if architecture not in self._known:
            test = same_cost([*self.costs.values()], architecture)
            others = other_networks(self.space, architecture, test, self.seed)
            of_its_cost = len(others)
            if of_its_cost < FEWEST:
                others = other_networks(self.space, architecture, self.limits.within, self.seed)
            self._known[architecture] = others, of_its_cost
        return self._known[architecture]


def stages_of(search: Proposer, settings: SearchSettings, costs: Costs) -> Stages:
    """The stages that the settings ask for, behind the candidates of ``search``.

    Random networks are like the winner in the limited costs, or if none is, in those that are objectives, or in FLOPs.

    Raises:
        SettingError: all networks are to be candidates, and there are not so many trainings.
    """
    trainings = settings.trainings or DEFAULT_TRAININGS
    if settings.sampler == "exhaustive" and not settings.trainings:
        trainings = sum(1 for _ in search.limits.allowed()) + settings.finals
    elif settings.sampler == "exhaustive":
        most = trainings - settings.finals
        ok = sum(1 for _ in islice(search.limits.allowed(), most + 1)) <= most
        rule = f"leaves {most:,} candidates, and search.sampler=exhaustive takes all networks, which are more"
        require(ok, "search.trainings", trainings, rule, "leave it out, or write search.sampler=random")
    budget = Budget(trainings - settings.finals, settings.finals, settings.verdict.networks)
    chosen = [n for n in settings.limit if n in costs] or [n for n in settings.objectives if n in costs] or ["flops"]
    return Stages(search, budget, {name: costs[name] for name in chosen})


def trainings_of(trials: Sequence[Trial]) -> dict[Architecture, list[float]]:
    """The accuracies of the trainings of each network, but for those that were stopped before their end."""
    found: dict[Architecture, list[float]] = {}
    for trial in trials:
        if trial.values and not trial.stopped:
            found.setdefault(trial.architecture, []).append(trial.values[TRAINED.name])
    return found


def finalists(trials: Sequence[Trial], finals: int, costs: Costs) -> list[Architecture] | None:
    """The best ``finals`` candidates by their first training, of equals the cheapest; None before all are finished.

    Those whose training was stopped before its end are left out.
    """
    candidates = [trial for trial in trials if trial.stage == SEARCH]
    if not all(trial.finished for trial in candidates):
        return None
    known = trainings_of([trial for trial in candidates if trial.feasible])
    return _best_first({network: fmean(found) for network, found in known.items()}, costs)[:finals]


def winner(trials: Sequence[Trial], finals: int, costs: Costs) -> Architecture | None:
    """The finalist with the best mean over its trainings in search and finals, of equals the cheapest.

    Without finals it is the best candidate. A finalist that failed in the finals cannot win.

    Returns:
        None if none can, or trainings of search or finals are still to come.
    """
    best = finalists(trials, finals or 1, costs) or []
    again = {trial.architecture for trial in trials if trial.stage == FINAL and trial.values}
    known = trainings_of([trial for trial in trials if trial.stage in (SEARCH, FINAL)])
    means = {network: fmean(known[network]) for network in best if not finals or network in again}
    return next(iter(_best_first(means, costs)), None)


def _best_first(accuracies: Mapping[Architecture, float], costs: Costs) -> list[Architecture]:
    def place(architecture: Architecture) -> tuple[float, ...]:
        return -accuracies[architecture], *(cost(architecture) for cost in costs.values())

    return sorted(accuracies, key=place)
