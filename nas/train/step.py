"""One step: each path forward and backward on the same batch, then one update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.dist import SINGLE, GradientExchange, World, autocast
from nas.errors import DivergedError
from nas.gate import LearnedGate
from nas.nn import gated_slots, indices_of
from nas.space import Architecture
from nas.train.optimize import GatedOptimizer


@dataclass(frozen=True)
class Loss:
    """Cross-entropy as a run uses it."""

    label_smoothing: float = 0.0
    precision: str = "float32"

    def __call__(self, supernet: nn.Module, x: Tensor, y: Tensor, architecture: Architecture) -> tuple[Tensor, Tensor]:
        """The mean loss over the batch, and the logits ``(B, classes)``."""
        with autocast(self.precision, x.device):
            logits = supernet(x, architecture)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(wide, y, label_smoothing=self.label_smoothing), logits


@dataclass(frozen=True)
class StepResult:
    """What a step found."""

    loss: float
    """Mean over the paths, and over the pictures of all processes."""
    correct: int
    """Right predictions, over all paths and processes."""
    path_s: list[float]
    """Seconds of forward and backward of each path of this process."""
    grad_norms: dict[tuple[int, int], float] | None = None
    """Gradient norm of each branch, by (slot, choice), in the steps that measure it."""
    stop: bool = False
    """Whether any process was asked to stop."""


def train_step(
    supernet: nn.Module,
    optimizer: GatedOptimizer,
    loss_fn: Loss,
    x: Tensor,
    y: Tensor,
    paths: Sequence[Architecture],
    lr: float,
    step: int = 0,
    norms_of: BranchNorms | None = None,
    exchange: GradientExchange | None = None,
    all_paths: Sequence[Architecture] | None = None,
    stop: bool = False,
) -> StepResult:
    """Run ``paths`` on one batch and update what they used by the sum of their gradients.

    Args:
        x, y: pictures ``(B, C, H, W)`` and labels ``(B,)``; of several processes, this one's part of the batch.
        step: its number, for the message of an error.
        norms_of: measures the gradient of each branch that ran; None leaves it unmeasured.
        exchange: sums the gradients over the processes; None where there is one.
        all_paths: the paths of all processes; ``paths`` where left out.
        stop: whether this process was asked to stop, for the others to know.

    Raises:
        DivergedError: a loss is not finite, in all processes at once; no weight has been updated then, and no gradient
            is left.
        RankError: with ``exchange``: the processes do not do the same, or one is gone.
    """
    losses, correct, path_s = [], 0, []
    for architecture in paths:
        started = perf_counter()
        loss, logits = loss_fn(supernet, x, y, architecture)
        loss.backward()
        losses.append(loss.item())
        correct += int((logits.argmax(dim=1) == y).sum())
        path_s.append(perf_counter() - started)
    all_paths, mean, any_stop = all_paths or paths, sum(losses) / len(paths), stop
    if exchange is not None:
        total, summed, stops = exchange(step, all_paths, [mean, correct, stop])
        mean, correct, any_stop = total / exchange.world.size, round(summed), stops > 0
    if not math.isfinite(mean):
        optimizer.discard()
        bad = [path for path, value in zip(paths, losses, strict=True) if not math.isfinite(value)] or all_paths
        rule = f"the loss is {mean} at step {step} on path {bad[0]}"
        raise DivergedError("optimizer.lr", f"{lr:.3g}", rule, "lower it, or set train.clip_norm=1")
    norms = norms_of(all_paths) if norms_of is not None else None
    optimizer.step(lr)
    return StepResult(mean, correct, path_s, norms, any_stop)


class BranchNorms:
    """The gradient norm of each branch that ran; asked between the backward pass and the update.

    It knows the branches' parameters from the start, so that asking costs what ran and no more.
    """

    def __init__(self, supernet: nn.Module) -> None:
        self._parameters = [
            [[p for branch in branches for p in branch.parameters()] for branches in choices]
            for choices in _branches(supernet)
        ]

    def __call__(self, paths: Sequence[Architecture]) -> dict[tuple[int, int], float]:
        """Norms by (slot, choice), for branches with parameters."""
        ran = {(slot, i) for path in paths for slot, entry in enumerate(path) for i in indices_of(entry)}
        norms = {}
        for slot, choice in sorted(ran):
            grads = [p.grad for p in self._parameters[slot][choice] if p.grad is not None]
            if grads:
                norms[slot, choice] = float(nn.utils.get_total_norm(grads))
        return norms


def _branches(supernet: nn.Module) -> list[list[tuple[nn.Module, ...]]]:
    """For each slot the branches of each of its choices: one for every block of the slot."""
    slots = gated_slots(supernet).values()
    return [list(zip(*(block.branches for block in blocks), strict=True)) for blocks in slots]


class GateTrainer:
    """Teaches a learned gate on held-out batches without a trace in the supernet."""

    def __init__(self, supernet: nn.Module, loss_fn: Loss, world: World = SINGLE) -> None:
        self._supernet, self._loss_fn, self._world = supernet, loss_fn, world
        is_norm = nn.modules.batchnorm._BatchNorm
        inside = [
            [[m for branch in branches for m in branch.modules() if isinstance(m, is_norm)] for branches in choices]
            for choices in _branches(supernet)
        ]
        gated = {id(m) for slot in inside for norms in slot for m in norms}
        self._norms = inside
        self._shared = [m for m in supernet.modules() if isinstance(m, is_norm) and id(m) not in gated]

    def step(self, gate: LearnedGate, x: Tensor, y: Tensor, step: int) -> float:
        """One step of the gate's logits on the held-out batch; returns its loss. The supernet stays bit for bit."""

        def loss_of(architecture: Architecture) -> Tensor:
            with self._statistics_kept(architecture):
                return self._loss_fn(self._supernet, x, y, architecture)[0]

        return gate.learn(step, loss_of, self._world.mean_)

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
