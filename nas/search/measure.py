"""Everything that is found out about an architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from nas.cost import PathFlops, PathParameters, latency
from nas.errors import DivergedError, SettingError, SpaceError
from nas.score import PROXIES, ScoreError, score
from nas.search.evaluator import Evaluator
from nas.search.finetune import Finetune
from nas.search.objectives import JUDGED, Objective
from nas.search.subject import Subject
from nas.seeds import generator
from nas.settings import SearchSettings
from nas.space import Architecture, extract
from nas.train import Judgement


@dataclass(frozen=True)
class Measured:
    """What was found out about one architecture."""

    architecture: Architecture
    values: dict[str, float]
    """By name, finite; empty where it failed."""
    seconds: float
    failed: str = ""
    refused: bool = False
    """Whether it failed since a proxy cannot be had of it."""


class Measures:
    """Finds the values of ``needed`` for architectures, and with them those that cost nothing more.

    Args:
        subject: of the architectures.
        settings: how to judge, score and time.
        needed: objectives, and what is limited.

    Attributes:
        costs: what can be computed without evaluating.
        left_out: costs that nobody needs and this supernet cannot have, with the reason.

    Raises:
        SettingError: accuracy or loss are needed and nothing is trained, or there are too few pictures.
        SpaceError: the parameters are needed and cannot be added up.
    """

    def __init__(self, subject: Subject, settings: SearchSettings, needed: Sequence[Objective]) -> None:
        self._subject, self._settings = subject, settings
        supernet = subject.supernet
        names = [o.name for o in needed]
        self.costs: dict[str, Callable[[Architecture], float]] = {
            "flops": PathFlops(subject.space, supernet, subject.picture)
        }
        self.left_out: dict[str, str] = {}
        try:
            self.costs["parameters"] = PathParameters(subject.space, supernet)
        except SpaceError as error:  # where slots share parameters they do not add up
            if "parameters" in names:
                raise
            self.left_out["parameters"] = f"{error.key} {error.value} {error.rule}"
        self._timed = "latency" in names
        pixels = generator(subject.seed, "latency")
        self._picture = torch.randn(settings.latency_batch, *subject.picture, generator=pixels)
        self._proxies = [n for n in names if n in PROXIES and n not in self.costs]
        self._batches = subject.proxy_batches(settings.proxy_images) if self._proxies else []
        self._evaluator = self._build_evaluator() if JUDGED.keys() & {*names} else None

    def _build_evaluator(self) -> Evaluator:
        how, trained = self._settings, self._subject.trained
        if trained is None:
            rule = "accuracy and loss need a trained supernet"
            remedy = "add checkpoint=outputs/train/RUN, or take proxies: search.objectives=[naswot,flops]"
            if JUDGED.keys() & {*how.objectives}:
                raise SettingError("search.objectives", how.objectives, rule, remedy)
            name, bound = next((name, bound) for name, bound in how.limit.items() if name in JUDGED)
            remedy = "add checkpoint=outputs/train/RUN, or leave this limit out"
            raise SettingError(f"search.limit.{name}", f"{bound:.10g}", rule, remedy)
        finetune = Finetune.of(trained, how.finetune_steps, how.finetune_lr) if how.finetune_steps else None
        recalibrate = self._subject.recalibrates(how.recalibrate)
        return Evaluator.of(trained, how.split, how.memory_mb << 20, recalibrate, finetune)

    def __call__(self, architectures: Sequence[Architecture]) -> Iterator[Measured]:
        """One after the other, in lexicographic order: what subnetworks share is computed once that way."""
        order = sorted(architectures)  # one open branch a slot: all entries are numbers
        judged = None if self._evaluator is None else iter(self._evaluator(order))
        for architecture in order:
            began = perf_counter()
            values = {name: float(cost(architecture)) for name, cost in self.costs.items()}
            failed, refused = "", False
            try:
                values |= self._judged(judged, architecture) | self._of_network(architecture)
            except (DivergedError, ScoreError) as error:
                failed, refused = f"{error.value}: {error.rule}", isinstance(error, ScoreError)
            infinite = [name for name, value in values.items() if not math.isfinite(value)]
            if infinite and not failed:
                failed = f"{infinite[0]} is {values[infinite[0]]}"
            yield Measured(architecture, {} if failed else values, perf_counter() - began, failed, refused)

    def _judged(self, judged: Iterator[Judgement] | None, architecture: Architecture) -> dict[str, float]:
        if judged is None:
            return {}
        found = next(judged)
        assert found.architecture == architecture, "the evaluator's order is another one"
        return {"accuracy": found.accuracy, "loss": found.loss}

    def _of_network(self, architecture: Architecture) -> dict[str, float]:
        values, how = {}, self._settings
        if self._timed:
            network = extract(self._subject.supernet, architecture)
            values["latency"] = latency(network, self._picture, threads=how.latency_threads).median_ms
        if self._proxies:
            network = extract(self._subject.fresh, architecture)
            values |= score(network, self._proxies, self._batches, self._subject.seed).values
        return values
