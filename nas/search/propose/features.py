"""What the surrogate of a search sees: the settings' names of features, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

from nas.console import track
from nas.errors import SettingError
from nas.score import PROXIES, score
from nas.score.run import training_batches
from nas.search.evaluate.evaluator import Evaluator
from nas.search.measure import PROXY_BATCHES
from nas.search.objectives import TRAINED, Limits, Objective, named_or_proxy
from nas.search.propose.surrogate import Column
from nas.search.propose.surrogate_proposer import SurrogateProposer
from nas.search.target import SearchTarget
from nas.settings import SearchSettings
from nas.settings.rank import FEATURES
from nas.space import Architecture, extract

CHOICES, PAIRS, COST, SUPERNET = FEATURES
Costs = Mapping[str, Callable[[Architecture], float]]


def surrogate_proposer(
    target: SearchTarget, settings: SearchSettings, limits: Limits, objectives: Sequence[Objective], costs: Costs
) -> SurrogateProposer:
    """The proposer of ``search.sampler=surrogate``: it predicts ``trained`` where that is an objective, else the first.

    Raises:
        SettingError: a feature is unknown or cannot be had, or the initial design takes more than all trials.
    """
    names = features_of(settings, target.trained is not None)
    known = columns_of(names, target, settings, costs)
    found = SurrogateProposer(
        target.space,
        limits,
        target.seed,
        TRAINED if TRAINED in objectives else objectives[0],
        costs,
        known,
        choices=CHOICES in names,
        pairs=PAIRS in names,
        costly=bool(known.keys() - {COST}),
    )
    finals = settings.finals if TRAINED in objectives else 0
    key, trials = ("search.trainings", settings.wanted_trainings) if finals else ("search.trials", settings.trials)
    least = len(found.design) + finals
    if 0 < trials < least:
        rule = f"must be at least {least}: the initial design of the surrogate takes {len(found.design)}"
        rule += f", and the finals take {finals}" if finals else ""
        raise SettingError(key, trials, rule, f"write {key}={least}, or search.sampler=random")
    return found


def features_of(settings: SearchSettings, supernet: bool) -> list[str]:
    """The names of the features: as asked, or all that cost nothing, and what a supernet says if there is one.

    Raises:
        SettingError: one is unknown, or needs a supernet.
    """
    if settings.features is None:
        return [CHOICES, PAIRS, COST, *[SUPERNET] * supernet]
    for name in settings.features:
        if name not in FEATURES and name not in PROXIES:
            raise SettingError("search.features", name, "is an unknown feature", named_or_proxy(name, FEATURES))
    if SUPERNET in settings.features and not supernet:
        rule, remedy = "needs a trained supernet", "add checkpoint=outputs/train/RUN, or leave it out"
        raise SettingError("search.features", SUPERNET, rule, remedy)
    return list(settings.features)


def columns_of(
    names: Sequence[str], target: SearchTarget, settings: SearchSettings, costs: Costs
) -> dict[str, list[Column]]:
    """By the name of a feature, what finds its numbers; nothing is evaluated yet."""
    found: dict[str, list[Column]] = {}
    if COST in names:
        found[COST] = [partial(_costs, cost) for cost in costs.values()]
    if SUPERNET in names:
        found[SUPERNET] = [SupernetLoss(target, settings)]
    proxies = [name for name in names if name not in FEATURES]
    if proxies:
        how = (PROXY_BATCHES, settings.proxy_images, target.seed, "proxies", "search.proxy_images")
        batches = training_batches(target.splits, *how)
        found.update((name, [partial(_scores, target, settings, batches, name)]) for name in proxies)
    return found


def _costs(cost: Callable[[Architecture], float], architectures: Sequence[Architecture]) -> list[float]:
    return [float(cost(a)) for a in architectures]


class SupernetLoss:
    """What the supernet says of architectures, by one evaluator, which is built when the first are asked for."""

    def __init__(self, target: SearchTarget, settings: SearchSettings) -> None:
        self._target, self._settings = target, settings

    @cached_property
    def _evaluator(self) -> Evaluator:
        how, trained = self._settings, self._target.trained
        assert trained is not None, "features_of has looked"
        recalibrate, images = self._target.recalibrates(how.recalibrate), (how.images, how.recalibrate_images)
        return Evaluator.of(trained, how.split, how.memory_mb << 20, recalibrate, None, *images)

    def __call__(self, architectures: Sequence[Architecture]) -> list[float]:
        """The recalibrated loss of each."""
        results = self._evaluator(architectures)
        shown = track(results, "feature supernet", len(architectures), self._settings.progress)
        found = {result.architecture: result.loss for result in shown}
        return [found[a] for a in architectures]


def _scores(
    target: SearchTarget, settings: SearchSettings, batches: list, name: str, architectures: Sequence[Architecture]
) -> list[float]:
    shown = track(architectures, f"feature {name}", len(architectures), settings.progress)
    return [score(extract(target.fresh, a), [name], batches, target.seed).values[name] for a in shown]
