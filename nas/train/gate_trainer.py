"""Training a learned gate on held-out batches, between the steps of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from nas.data import Batch
from nas.dist import SINGLE, World
from nas.gate import LearnedGate
from nas.nn import indices_of
from nas.space import Architecture
from nas.track import PROBABILITY
from nas.track.tags import Tags
from nas.train.step import Loss, branches_of


class NoGateTrainer:
    """For a gate that learns nothing."""

    def __call__(self, step: int) -> None:
        """Do nothing."""

    def curves(self, step: int, tags: Tags) -> dict[str, float]:
        """No values."""
        return {}


class GateTrainer(NoGateTrainer):
    """Trains a learned gate and leaves the supernet unchanged.

    Args:
        gate: what is trained.
        supernet: whose loss the gate is to lower.
        loss_fn: gives the loss of a path.
        held_out: gives the batch of a step, images that no weight is trained on.
        world: the processes; each has batches of its own, and all make the same step of the gate.
    """

    def __init__(
        self,
        gate: LearnedGate,
        supernet: nn.Module,
        loss_fn: Loss,
        held_out: Callable[[int], Batch],
        world: World = SINGLE,
    ) -> None:
        self._gate, self._held_out, self._world = gate, held_out, world
        self._supernet, self._loss_fn = supernet, loss_fn
        is_norm = nn.modules.batchnorm._BatchNorm
        self._norms = [
            [[m for branch in branches for m in branch.modules() if isinstance(m, is_norm)] for branches in choices]
            for choices in branches_of(supernet)
        ]
        gated = {id(m) for slot in self._norms for norms in slot for m in norms}
        self._shared = [m for m in supernet.modules() if isinstance(m, is_norm) and id(m) not in gated]

    def __call__(self, step: int) -> None:
        """Train the gate if it is due after step ``step`` of the weights."""
        if self._gate.is_due(step):
            self.learn(step)

    def learn(self, step: int) -> float:
        """Make one step of the gate's logits; return its loss."""
        x, y = self._held_out(step)

        def loss_of(architecture: Architecture) -> Tensor:
            with self._statistics_kept(architecture):
                return self._loss_fn(self._supernet, x, y, architecture)[0]

        return self._gate.learn(step, loss_of, self._world.mean_)

    def curves(self, step: int, tags: Tags) -> dict[str, float]:
        """The temperature and the probability of each choice, by tag."""
        values = {"gate/temperature": self._gate.temperature(step)}
        for slot, chances in enumerate(self._gate.probabilities()):
            if tags.has_curves[slot]:
                values |= {tags.choice(PROBABILITY, slot, k): chance for k, chance in enumerate(chances)}
        return values

    @contextmanager
    def _statistics_kept(self, architecture: Architecture) -> Iterator[None]:
        # The batch normalises itself, as in training; the running statistics belong to the training split.
        norms = [*self._shared]
        for slot, entry in zip(self._norms, architecture, strict=True):
            for choice in indices_of(entry):
                norms += slot[choice]
        kept = [norm for norm in norms if norm.track_running_stats]
        for norm in kept:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in kept:
                norm.track_running_stats = True
