"""Comparing paths for a gate that learns, on held-out batches, between the steps of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.data import Batch
from nas.dist import SINGLE, World
from nas.errors import DivergedError
from nas.gate import Gate
from nas.nn import indices_of
from nas.space import Architecture
from nas.track import PROBABILITY
from nas.track.tags import UNDECIDED, Tags
from nas.train.step import Loss, branches_of


class NoGateTrainer:
    """For a gate that learns nothing."""

    def __call__(self, step: int) -> None:
        """Do nothing."""

    def curves(self, step: int, tags: Tags) -> dict[str, float]:
        """No values."""
        return {}


class GateTrainer(NoGateTrainer):
    """Tells a gate the held-out losses of the paths that it compares, and leaves the supernet unchanged.

    The paths of one comparison see the same images. BatchNorm normalises by the batch, as in training, and keeps its
    running statistics, which belong to the training images; everything else is in eval mode, dropout for example.

    Args:
        gate: what learns.
        supernet: whose paths are compared.
        loss_fn: gives the loss of a path.
        held_out: gives the batch of a step, images that no weight is trained on.
        world: the processes; each has batches of its own, and all learn from the mean of their losses.
    """

    def __init__(
        self,
        gate: Gate,
        supernet: nn.Module,
        loss_fn: Loss,
        held_out: Callable[[int], Batch],
        world: World = SINGLE,
    ) -> None:
        self._gate, self._held_out, self._world = gate, held_out, world
        self._supernet, self._loss_fn = supernet, loss_fn
        self._branches = [
            [[m for branch in branches for m in branch.modules()] for branches in choices]
            for choices in branches_of(supernet)
        ]
        gated = {m for choices in self._branches for modules in choices for m in modules}
        self._shared = [m for m in supernet.modules() if m not in gated]

    def __call__(self, step: int) -> None:
        """Let the gate learn, if it asks for a comparison after ``step`` of the weights.

        Raises:
            DivergedError: a loss is not finite, in all processes alike; the gate is as it was.
        """
        paths = self._gate.compared(step)
        if paths:
            self._gate.learn(paths, self.losses(step, paths))

    @torch.no_grad()
    def losses(self, step: int, paths: Sequence[Architecture]) -> list[float]:
        """The loss of each of ``paths`` on the held-out batch of ``step``, the mean over all processes."""
        x, y = self._held_out(step)
        with self._undisturbed(paths):
            own = torch.stack([self._loss_fn(self._supernet, x, y, path)[0] for path in paths])
        losses: list[float] = self._world.mean_(own).tolist()
        for path, loss in zip(paths, losses, strict=True):
            if not math.isfinite(loss):
                rule = f"the held-out loss is {loss} at step {step} on path {path}"
                raise DivergedError("gate", "learned", rule, "lower optimizer.lr, or set train.clip_norm=1")
        return losses

    def curves(self, step: int, tags: Tags) -> dict[str, float]:
        """The probability of each choice, and how undecided the gate is, by tag."""
        values: dict[str, float] = {}
        left = []
        for slot, chances in enumerate(self._gate.probabilities()):
            if tags.has_curves[slot]:
                values |= {tags.choice(PROBABILITY, slot, k): chance for k, chance in enumerate(chances)}
            if len(chances) > 1:
                left.append(-sum(p * math.log(p) for p in chances if p) / math.log(len(chances)))
        return values | {UNDECIDED: sum(left) / len(left) if left else 0.0}

    @contextmanager
    def _undisturbed(self, paths: Sequence[Architecture]) -> Iterator[None]:
        modules = dict.fromkeys(self._shared)
        for path in paths:
            for slot, entry in zip(self._branches, path, strict=True):
                modules |= dict.fromkeys(m for choice in indices_of(entry) for m in slot[choice])
        training = [m for m in modules if m.training]
        norms = [m for m in training if isinstance(m, _BatchNorm) and m.track_running_stats]
        others = [m for m in training if not isinstance(m, _BatchNorm)]
        for norm in norms:
            norm.track_running_stats = False
        for other in others:
            other.training = False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True
            for other in others:
                other.training = True
