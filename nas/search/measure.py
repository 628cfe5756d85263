"""Everything that is found out about an architecture: costs, accuracy and loss, latency, proxies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from nas.cost import PathFlops, PathParameters, latency
from nas.data import Ordered
from nas.errors import DivergedError, SettingError, SpaceError
from nas.score import PROXIES, ScoreError, score
from nas.score.run import training_batches
from nas.search.evaluate.evaluator import Evaluator, Finetune
from nas.search.evaluate.race import LOOK, WORTH, Company, Race, named
from nas.search.objectives import EVALUATED, TRAINED, Objective
from nas.search.propose.proposers import SEARCH, Trial
from nas.search.target import SearchTarget
from nas.search.trained.trainings import Trainings
from nas.seeds import generator
from nas.settings import SearchSettings
from nas.settings.rank import FINETUNE_STEPS
from nas.space import Architecture, extract, in_order
from nas.threads import passes
from nas.train import EvalResult

PROXY_BATCHES = 2
"""All proxies see the first one; ``zico`` needs the spread over several."""


@dataclass(frozen=True)
class Measurement:
    """What was found out about the architecture of one trial.

    Attributes:
        trial: as it was claimed.
        values: by name, finite; empty if it failed.
        seconds: that it took.
        failed: why there are no values.
        refused: it failed because a proxy is not defined for such a network.
        train_losses: of each epoch, where the architecture was trained alone.
        stopped: the training was stopped at a rung; what it was made for is not among the values.
        images: held-out ones that accuracy and loss rest on; 0 where there are none.
    """

    trial: Trial
    values: dict[str, float]
    seconds: float
    failed: str = ""
    refused: bool = False
    train_losses: Sequence[float] = ()
    stopped: bool = False
    images: int = 0


class Measures:
    """Finds the values of some objectives for architectures, and the costs that come for free.

    Args:
        target: whose architectures are measured.
        settings: how to evaluate, score and time.
        needed: the objectives, and whatever is limited.
        folder: of the search, where trainings are among the objectives.

    Attributes:
        costs: by name, what can be computed without an evaluation.
        trainings: of architectures alone; None where nobody needs any.
        goes_on: whether the training of a trial goes on that has made so many epochs, with such losses.
        left_out: by name, costs that nobody needs and that this supernet cannot have, with the reason.

    Raises:
        SettingError: accuracy or loss are needed and nothing is trained, or there are too few images.
        SpaceError: the parameters are needed, and slots share some, so that they cannot be added up.
    """

    def __init__(
        self, target: SearchTarget, settings: SearchSettings, needed: Sequence[Objective], folder: Path | None = None
    ) -> None:
        self._target, self._settings = target, settings
        supernet, names = target.supernet, [o.name for o in needed]
        flops = PathFlops(target.space, supernet, target.splits.input_shape)
        self.costs: dict[str, Callable[[Architecture], float]] = {"flops": flops}
        self.left_out: dict[str, str] = {}
        try:
            self.costs["parameters"] = PathParameters(target.space, supernet)
        except SpaceError as error:
            if "parameters" in names:
                raise
            self.left_out["parameters"] = f"{error.key} {error.value} {error.rule}"
        self._timed = "latency" in names
        pixels = generator(target.seed, "latency")
        self._image = torch.randn(settings.latency_batch, *target.splits.input_shape, generator=pixels)
        self._proxies = [n for n in names if n in PROXIES and n not in self.costs]
        how = (PROXY_BATCHES, settings.proxy_images, target.seed, "proxies", "search.proxy_images")
        self._batches = training_batches(target.splits, *how) if self._proxies else []
        ways = dict.fromkeys(name.partition("_")[2] for name in names if name in EVALUATED)
        shares = len(ways) + settings.race
        self._evaluators = {way: self._build_evaluator(way, shares) for way in ways}
        self._race = self._build_race((settings.memory_mb << 20) // shares) if settings.race else None
        self.goes_on: Callable[[Trial, int, Sequence[float]], bool] = lambda *_: True
        self.trainings = None
        if TRAINED.name in names:
            assert folder is not None, "trainings need a folder"
            self.trainings = Trainings(target, settings, folder)

    def _build_evaluator(self, way: str, shares: int) -> Evaluator:
        """An evaluator that asks the supernet in one of the ``WAYS``, with a share of the memory."""
        how, trained = self._settings, self._target.trained
        if trained is None:
            rule, remedy = "accuracy and loss need a trained supernet", "add checkpoint=outputs/train/RUN"
            if EVALUATED.keys() & {*how.objectives}:
                remedy += ", or take proxies: search.objectives=[naswot,flops]"
                raise SettingError("search.objectives", how.objectives, rule, remedy)
            for name, bound in how.limit.items():
                if name in EVALUATED:
                    remedy += ", or leave this limit out"
                    raise SettingError(f"search.limit.{name}", f"{bound:.10g}", rule, remedy)
            remedy += ", or add up others: search.sum=[naswot,parameters]"
            raise SettingError("search.sum", how.sum, rule, remedy)
        steps = how.finetune_steps or FINETUNE_STEPS
        finetune = Finetune.of(trained, steps, how.finetune_lr) if way == "tuned" else None
        recalibrate = way != "running" and self._target.recalibrates(how.recalibrate)
        images = how.images, how.recalibrate_images
        return Evaluator.of(trained, how.split, (how.memory_mb << 20) // shares, recalibrate, finetune, *images)

    def _build_race(self, memory_bytes: int) -> Race:
        """A race by the one evaluated objective; the settings have seen to it that there is one."""
        how, trained = self._settings, self._target.trained
        assert trained is not None, "its evaluator was built"
        name = next(name for name in how.objectives if name in EVALUATED)
        metric, _, way = name.partition("_")
        evaluator, images = self._evaluators[way], WORTH * LOOK
        if evaluator.images < images:
            rule = f"needs {images:,} held-out images: it looks at {LOOK} first, and there are {evaluator.images:,}"
            raise SettingError("search.race", True, rule, "leave it out: all are evaluated in full then")
        looks = Evaluator(
            trained.supernet,
            trained.space,
            trained.batches(trained.held_out(how.split, LOOK), LOOK // 2),
            None,
            precision=trained.settings.train.way.precision,
            memory_bytes=memory_bytes,
            by_batch=way != "running" and self._target.recalibrates(how.recalibrate),
        )
        return Race(evaluator, looks, metric, [self.costs[n] for n in how.objectives if n in self.costs], way)

    @property
    def remark(self) -> str:
        """How a network of somebody else is evaluated, for a line; else empty."""
        return next((evaluator.remark for evaluator in self._evaluators.values() if evaluator.remark), "")

    def piece_of_work(self) -> Callable[[], object]:
        """What most of the time goes to, to find the better number of threads: a pass through the supernet."""
        target, draws = self._target, generator(self._target.seed, "threads")
        architectures = target.space.sample_many(4, draws)
        if self.trainings is not None:
            batch = target.splits.train.subset(torch.arange(self.trainings.settings.train.batch_size))
            x = Ordered(batch, target.splits.mean, target.splits.std, len(batch))[0][0]
            return passes(target.fresh, x, architectures, gradients=True)
        if self._evaluators and target.trained is not None:
            return passes(target.supernet, target.trained.sample(), architectures)
        x = self._batches[0][0] if self._batches else self._image
        return passes(target.fresh, x, architectures, gradients=bool(self._batches))

    def __call__(self, trials: Sequence[Trial], company: Company | None = None) -> Iterator[Measurement]:
        """Measure one after the other in lexicographic order, in which subnetworks share most work.

        Candidates get all that is needed; trials of later stages, which are trained again, nothing that is known.

        Args:
            company: of each trial, for a race; None evaluates all in full.
        """
        if self._race is not None and company is not None:
            yield from self._by_race(self._race, trials, company)
            return
        order = sorted(trials, key=lambda trial: (in_order(trial.architecture), trial.draw))
        candidates = [trial.architecture for trial in order if trial.stage == SEARCH]
        images = next((evaluator.images for evaluator in self._evaluators.values()), 0)
        results = {way: evaluator(candidates) for way, evaluator in self._evaluators.items()}
        for trial in order:
            architecture, began = trial.architecture, perf_counter()
            values = {name: float(cost(architecture)) for name, cost in self.costs.items()}
            failed, refused, stopped = "", False, False
            losses: Sequence[float] = ()
            try:
                if trial.stage == SEARCH:
                    values |= _evaluated(results, architecture)
                    values |= self._of_network(architecture)
                if self.trainings is not None:
                    training = self.trainings(architecture, trial.draw, partial(self.goes_on, trial))
                    losses, stopped = training.train_losses, training.epochs < self._settings.train.epochs
                    values |= {} if stopped else {TRAINED.name: training.accuracy}
                    began = perf_counter() - training.seconds  # those of processes that were killed count
            except (DivergedError, ScoreError) as error:
                failed, refused = f"{error.value}: {error.rule}", isinstance(error, ScoreError)
            infinite = [name for name, value in values.items() if not math.isfinite(value)]
            if infinite and not failed:
                failed = f"{infinite[0]} is {values[infinite[0]]}"
            seconds = perf_counter() - began
            yield Measurement(trial, {} if failed else values, seconds, failed, refused, losses, stopped, images)

    def _by_race(self, race: Race, trials: Sequence[Trial], company: Company) -> Iterator[Measurement]:
        began = perf_counter()
        for trial, found in race(trials, company):
            if isinstance(found, DivergedError):
                yield Measurement(trial, {}, perf_counter() - began, f"{found.value}: {found.rule}")
            else:
                costs = {name: float(cost(trial.architecture)) for name, cost in self.costs.items()}
                seconds = perf_counter() - began
                yield Measurement(trial, costs | named(found, race.way), seconds, images=found.images)
            began = perf_counter()

    def _of_network(self, architecture: Architecture) -> dict[str, float]:
        values, how = {}, self._settings
        if self._timed:
            network = extract(self._target.supernet, architecture)
            values["latency"] = latency(network, self._image, threads=how.latency_threads).median_ms
        if self._proxies:
            network = extract(self._target.fresh, architecture)
            values |= score(network, self._proxies, self._batches, self._target.seed).values
        return values


def _evaluated(results: Mapping[str, Iterator[EvalResult]], architecture: Architecture) -> dict[str, float]:
    """What the supernet says of the next architecture, asked in each way.

    Raises:
        DivergedError: a loss is not finite; all iterators stand at the next architecture nevertheless.
    """
    values, failed = dict[str, float](), None
    for way, found in results.items():
        try:
            one = next(found)
        except DivergedError as error:
            failed = error
            continue
        assert one.architecture == architecture, "the evaluator has another order"
        values |= named(one, way)
    if failed is not None:
        raise failed
    return values
