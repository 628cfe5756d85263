"""Which way of computing a step is the fastest here: a few steps each way, before the first one.

The ways differ by rounding alone. Each is timed against the best before it, in turn, on the same paths of a copy of the
network; it is taken where it is faster by :data:`PAYS` and gives the same loss and gradients.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from nas.cost.allocator import give_back_freed_memory
from nas.data import Batch, Ordered, Splits
from nas.data.ordered import memory_format
from nas.dist import SINGLE, World
from nas.errors import NasWarning
from nas.nn.compiled import can_compile, compile_branches
from nas.seeds import seed_layers
from nas.settings import TrainSettings, Way
from nas.settings.rules import AUTO
from nas.space import Architecture
from nas.threads import Threads, duration
from nas.train.step import Loss

PAYS = 0.97
"""A way is taken that needs at most so much of the time of the best before it."""
SLOW = 1.1
"""A setting given by hand is warned of if it needs so much of the time without it."""
FEWEST, MOST, HOPELESS = 5, 15, 2.0
"""Pairs of steps that are timed; a way that takes so much longer in one of them is given up."""
SPEND_S, SHARE = 0.7, 0.05
"""Seconds for the pairs of a way, and at most so large a share of what the run takes."""
FEWEST_STEPS, SHORTEST = 100, 20
"""Of a run in which a choice is made: in a shorter one that would take longer than it could save. What is given by hand
is looked at in a run of 20 steps, too."""
COMPILE_PAYS_S = 1200.0
"""Seconds that the steps of a run must take before compiling, which takes up to 100 of them, is tried unasked."""
OTHERS = {"channels_last": True, "precision": "bf16", "compile": "branches"}
"""What is tried in place of torch's default; compiled code last, in the better memory format."""
SAME_LOSS, SAME_GRADIENT = 1e-3, 1e-2
"""Relative differences of the loss, and of the norm of the gradient, that rounding explains."""


Timed = Callable[[Architecture], float]
"""Makes a step on a path and gives its seconds."""


class Trial:
    """Steps without an update on a copy of a network, in any way.

    Args:
        network: is left as it is; an architecture is its second argument.
        batch: images ``(B, C, H, W)`` and labels.
        paths: that are taken in turn.
        loss: gives the loss, in the precision of a way.
        world: the processes, which agree on what they find.
    """

    def __init__(
        self, network: nn.Module, batch: Batch, paths: Sequence[Architecture], loss: Loss, world: World = SINGLE
    ) -> None:
        self.paths, self._batch, self._loss, self._world = paths, batch, loss, world
        self._network, self._twins = network, dict[str, nn.Module]()
        self._device = batch[0].device

    @classmethod
    def of(
        cls,
        network: nn.Module,
        paths: Sequence[Architecture],
        splits: Splits,
        train: TrainSettings,
        device: torch.device,
        world: World,
    ) -> Trial:
        """That of a run: on its first training images, as many as a process has in a batch."""
        number = min(len(splits.train), train.batch_size // world.size)
        batch = Ordered(splits.train.subset(torch.arange(number)), splits.mean, splits.std, number, device)[0]
        return cls(network, batch, paths, Loss.of(train, splits.train, device), world)

    def step(self, way: Way, path: Architecture) -> tuple[float, Tensor]:
        """Seconds of a step forward and backward, and its loss; the gradients stay on the network."""
        network, (x, y) = self._twin(way), self._batch
        network.zero_grad()
        x = x.contiguous(memory_format=memory_format(way.channels_last))
        loss_fn = replace(self._loss, precision=way.precision)
        seed_layers(self._device, 0)
        self._wait()
        began = perf_counter()
        loss, _ = loss_fn(network, x, y, path)
        loss.backward()
        self._wait()
        return perf_counter() - began, loss.detach()

    def steps(self, way: Way) -> Callable[[], object]:
        """A piece of work to time: a step on one path after the other, on each of them twice."""
        turns = cycle([path for path in self.paths for _ in range(2)])
        return lambda: self.step(way, next(turns))

    def _twin(self, way: Way) -> nn.Module:
        """A copy that computes in this way; made when it is first asked for, and one for compiled code."""
        if way.compile not in self._twins:
            self._twins[way.compile] = copy.deepcopy(self._network)
            if way.compile == "branches":
                compile_branches(self._twins[way.compile])
        return self._twins[way.compile].to(memory_format=memory_format(way.channels_last))

    def forget(self) -> None:
        """Let go of the copies: memory in pieces of their sizes would suit the steps to come badly."""
        self._twins.clear()
        give_back_freed_memory()

    def takes_s(self, way: Way, steps: int) -> float:
        """The seconds that so many steps take, about."""
        self.step(way, self.paths[0])  # the first one prepares what the others find
        return self._mean(self.step(way, self.paths[0])[0]) * steps

    def can_compile(self) -> bool:
        """Whether all processes can."""
        return self._mean(can_compile(self._device)) == 1

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def same(self, a: Way, b: Way) -> bool:
        """Whether two ways give the same losses and gradients, but for rounding; both have run then."""
        # What is compiled is compiled on all paths, before any is timed.
        paths = self.paths if {a.compile, b.compile} != {"none"} else self.paths[:1]
        near = True
        for path in paths:
            (loss, norm), (other, others) = self._figures(a, path), self._figures(b, path)
            near &= bool(torch.isclose(other, loss, SAME_LOSS)) and bool(torch.isclose(others, norm, SAME_GRADIENT))
        return self._mean(near) == 1

    def _figures(self, way: Way, path: Architecture) -> tuple[Tensor, Tensor]:
        """The loss of a step, and the norm of its gradient."""
        _, loss = self.step(way, path)
        return loss, nn.utils.get_total_norm([p.grad for p in self._twin(way).parameters() if p.grad is not None])

    def race(self, a: Timed, b: Timed, spend_s: float = SPEND_S) -> tuple[float, float]:
        """The seconds of ``a``, and how long ``b`` takes as a multiple of them: medians over pairs of steps.

        The pairs end after about ``spend_s`` seconds. What runs for the first time prepares what the others find: the
        caller has run both.
        """
        times: tuple[list[float], list[float]] = [], []
        began, late, hopeless = perf_counter(), 0.0, False
        while not hopeless and len(times[0]) < MOST and late <= (spend_s if len(times[0]) >= FEWEST else 3 * spend_s):
            path = self.paths[len(times[0]) % len(self.paths)]
            for one in (0, 1) if len(times[0]) % 2 else (1, 0):
                times[one].append((a, b)[one](path))
            hopeless, late = times[1][-1] > HOPELESS * times[0][-1], perf_counter() - began
        ratio = statistics.median(other / own for own, other in zip(*times, strict=True))
        return self._mean(statistics.median(times[0])), self._mean(ratio)

    def seconds(self, way: Way, threads: int = 0) -> Timed:
        """A step whose seconds are asked for, on a number of threads if one is given."""

        def step(path: Architecture) -> float:
            if threads:
                torch.set_num_threads(threads)
            return self.step(way, path)[0]

        return step

    def _mean(self, value: float) -> float:
        return float(self._world.mean_(torch.tensor(value, dtype=torch.float64, device=self._world.device)))


def choose(train: TrainSettings, trial: Trial, steps: int, threads: Threads) -> tuple[Way, str]:
    """The number of threads, which ``threads`` keeps, and the fastest way on them; what was found, in a line.

    Args:
        train: what of this is given by hand.
        trial: times the ways.
        steps: that are left to make.
        threads: of the run.
    """
    with threads:
        line = threads.choose(lambda: trial.steps(replace(train.way, compile="none")))
        way, found = fastest(train, trial, steps)
    trial.forget()
    return way, "; ".join([line, *found] if line else found)


def fastest(train: TrainSettings, trial: Trial, steps: int) -> tuple[Way, list[str]]:
    """The fastest way among those that ``train`` leaves open, and what was found, in words.

    A setting given by hand stays; it is warned of where a step takes longer with it, by a tenth or more.

    Args:
        train: ``channels_last``, ``precision`` and ``compile`` may be ``auto``.
        trial: times the ways.
        steps: that are left to make; with fewer than 100 nothing is chosen.
    """
    way, found = train.way, list[str]()
    auto = (AUTO,) if steps >= FEWEST_STEPS else ()
    opened = [name for name, other in OTHERS.items() if getattr(train, name) in (other, *auto)]
    if train.fast == "none" or steps < SHORTEST or not (opened or train.threads != AUTO):
        return way, found
    takes_s = trial.takes_s(replace(way, compile="none"), steps)
    spend_s = min(SPEND_S, SHARE * takes_s)
    _check_threads(train, trial, spend_s)
    for name in opened:
        given, default, other = getattr(train, name), getattr(Way(), name), OTHERS[name]
        if given == AUTO and name == "compile" and not (takes_s > COMPILE_PAYS_S and trial.can_compile()):
            continue
        without, tried = (_changed(way, {"compile": "none", name: value}) for value in (default, other))
        same = trial.same(without, tried) or name == "precision"
        own, ratio = trial.race(trial.seconds(without), trial.seconds(tried), spend_s)
        if given == other:
            _warn_of(name, other, default, own, ratio, same)
            continue
        taken, left = (other, default) if ratio <= PAYS and same else (default, other)
        way = _changed(way, {name: taken})
        its, lefts = (own * ratio, own) if taken == other else (own, own * ratio)
        not_same = "" if same else ", but another result"
        found.append(
            f"{name}: {_word(taken)} (a step takes {duration(its)}; {duration(lefts)} with {_word(left)}{not_same})"
        )
    return way, found


def _check_threads(train: TrainSettings, trial: Trial, spend_s: float) -> None:
    """Warn of threads given by hand that make a step slower."""
    number = torch.get_num_threads()
    if train.threads != AUTO and number > 1:
        way = replace(train.way, compile="none")  # which would be compiled for each number
        one, several = trial.seconds(way, 1), trial.seconds(way, number)
        one(trial.paths[0]), several(trial.paths[0])
        own, ratio = trial.race(one, several, spend_s)
        torch.set_num_threads(number)
        _warn_of("threads", train.threads, 1, own, ratio)


def _changed(way: Way, values: dict[str, Any]) -> Way:
    return replace(way, **values)


def _warn_of(name: str, value: object, plain: object, without: float, ratio: float, same: bool = True) -> None:
    """Warn of a setting given by hand if it makes a step slower, or its result another."""
    given, default = f"train.{name}={_word(value)}", f"train.{name}={_word(plain)}"
    if ratio >= SLOW:
        times = f"a step takes {duration(without * ratio)}, and {duration(without)} with {default}"
        warnings.warn(f"{given} is slow here: {times}", NasWarning, stacklevel=5)
    if not same:
        text = f"{given} gives another loss or gradient here than {default}, by more than rounding"
        warnings.warn(text, NasWarning, stacklevel=5)


def _word(value: object) -> str:
    return str(value).lower()
