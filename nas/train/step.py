"""One training step: each path forward and backward on the same batch, then one update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import Batch, ImageSet, class_weights
from nas.dist import NO_EXCHANGE, NoExchange, autocast
from nas.errors import DivergedError, SettingError, SpaceError
from nas.nn import gated_slots, indices_of
from nas.plugin import load_function
from nas.settings import TrainSettings
from nas.settings.train import CROSS_ENTROPY
from nas.space import Architecture
from nas.train.result import Norms, StepResult, mark
from nas.train.update.optimize import GatedOptimizer


@dataclass(frozen=True, eq=False)
class Loss:
    """Cross-entropy with label smoothing, or a loss of the user's own, computed in a precision.

    Attributes:
        label_smoothing: share of the target that is spread over all classes.
        precision: of the network, ``float32`` or ``bf16``; the loss itself is float32 at least.
        own: ``package.module:callable``, called with logits ``(B, classes)`` and labels, gives the mean loss. Labels
            are int64 ``(B,)``, or of mixed images the shares of the classes, float ``(B, classes)``.
        class_weights: ``(classes,)``, factors of the cross-entropy.

    Raises:
        SettingError: there is no such function, or it gives something else than a scalar with a gradient.
    """

    label_smoothing: float = 0.0
    precision: str = "float32"
    own: str = ""
    class_weights: Tensor | None = None

    @classmethod
    def of(cls, train: TrainSettings, images: ImageSet, device: torch.device | str = "cpu") -> Loss:
        """That of a training on ``images``."""
        weights = class_weights(images).to(device) if train.class_weights == "balanced" else None
        return cls(
            train.label_smoothing, train.way.precision, "" if train.loss == CROSS_ENTROPY else train.loss, weights
        )

    def __post_init__(self) -> None:
        self._function  # noqa: B018  # so that a name of nothing is refused before the first step

    @cached_property
    def _function(self) -> Callable[[Tensor, Tensor], Tensor]:
        if self.class_weights is not None:
            return self._weighted
        if not self.own:
            return partial(F.cross_entropy, label_smoothing=self.label_smoothing)
        return partial(_checked, self.own, load_function("train.loss", self.own, "logits", "labels"))

    def _weighted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The weighted mean over the batch, not divided by the sum of the weights as torch does where labels are ints.

        So ints and shares of classes have one loss, as has a batch that several processes share.
        """
        assert self.class_weights is not None
        weights = self.class_weights.to(logits.dtype)
        return F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=self.label_smoothing).mean()

    def __call__(self, supernet: nn.Module, x: Tensor, y: Tensor, architecture: Architecture) -> tuple[Tensor, Tensor]:
        """The mean loss over the batch, and the logits ``(B, classes)``."""
        with autocast(self.precision, x.device):
            logits = supernet(x, architecture)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self._function(wide, y), logits


def _checked(name: str, function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    loss: object = function(logits, labels)
    what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    if not isinstance(loss, Tensor) or loss.shape != () or not loss.requires_grad:
        what += " without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
        remedy = "return the mean over the batch, computed by torch from the logits"
        raise SettingError("train.loss", name, f"gave {what}, and must give a scalar with a gradient", remedy)
    return loss


def unmeasured(step: int, paths: Sequence[Architecture]) -> None:
    """Measure no gradient norms."""


@dataclass(frozen=True)
class TrainStep:
    """Runs paths on a batch and updates what they used by the sum of their gradients.

    Attributes:
        supernet: the network; an architecture is its second argument.
        optimizer: updates the parameters of ``supernet``.
        loss_fn: gives the loss of a path.
        exchange: sums gradients over the processes.
        norms: measures gradients between the backward pass and the update, called with the step and all paths.
    """

    supernet: nn.Module
    optimizer: GatedOptimizer
    loss_fn: Loss = Loss()
    exchange: NoExchange = NO_EXCHANGE
    norms: Callable[[int, Sequence[Architecture]], Norms | None] = unmeasured

    def __call__(
        self,
        batch: Batch,
        paths: Sequence[Architecture],
        lr: float,
        step: int = 0,
        all_paths: Sequence[Architecture] | None = None,
        stop: bool = False,
    ) -> StepResult:
        """Make one step.

        Args:
            batch: images ``(B, C, H, W)`` and labels ``(B,)``, or of mixed images ``(B, classes)``; with several
                processes, this one's part of the batch.
            paths: the architectures that this process runs, one after the other.
            lr: the learning rate.
            step: its number.
            all_paths: the paths of all processes; ``paths`` if left out.
            stop: whether this process was asked to stop, which the others learn with the gradients.

        Nothing is read back. From a loss that is not finite on, in all processes alike, no weight, moment or average
        changes, in this step and all later ones, and :func:`read_steps` tells of it.

        Raises:
            RankError: the processes do different things, or one is gone.
        """
        all_paths, (x, y), size = all_paths or paths, batch, self.exchange.world.size
        losses: list[Tensor] = []
        right, marks = [], [mark(x.device)]
        dominant = y if y.ndim == 1 else y.argmax(dim=1)
        for architecture in paths:
            loss, logits = self.loss_fn(self.supernet, x, y, architecture)
            if not loss.requires_grad:
                rule = "has nothing to train: its parameters are frozen, or forward runs under torch.no_grad()"
                raise SpaceError("path", architecture, rule, "leave requires_grad on for some parameters of each path")
            self.exchange.backward(loss, step, last=len(losses) == len(paths) - 1)
            losses.append(loss.detach())
            right.append((logits.argmax(dim=1) == dominant).sum(dtype=loss.dtype))
            marks.append(mark(x.device))
        stops = [losses[0].new_full((), stop)] if size > 1 else []
        own = torch.stack([*losses, *right, *stops])
        figures = self.exchange(step, all_paths, own)
        asked = None
        if size > 1:
            figures[: len(paths)] /= size
            asked = figures[-1].to("cpu", non_blocking=True)
            marks.append(mark(x.device))
        self.optimizer.hold_unless_finite(figures)
        norms = self.norms(step, all_paths)
        self.optimizer.step(lr)
        return StepResult(step, lr, paths, all_paths, figures, own, marks, norms, asked)


def check_finite(supernet: nn.Module, lr: float, step: int) -> None:
    """Raise a DivergedError if a weight or a statistic is not finite after ``step`` steps at peak rate ``lr``."""
    for name, value in supernet.state_dict().items():  # a module's extra state may be no tensor
        if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
            rule = f"{name} is no longer finite at step {step}"
            raise DivergedError("optimizer.lr", lr, rule, "lower it, or set train.clip_norm=1")


class BranchNorms:
    """Measures the gradient norm of each branch that ran, in every ``every``-th step.

    It looks the branches' parameters up once, so that a measurement costs what ran and no more.
    """

    def __init__(self, supernet: nn.Module, every: int = 1) -> None:
        self._every = every
        self._parameters = [
            [[p for branch in branches for p in branch.parameters()] for branches in choices]
            for choices in branches_of(supernet)
        ]

    def __call__(self, step: int, paths: Sequence[Architecture]) -> Norms | None:
        """The norms of the branches on ``paths``; None in a step that does not measure."""
        if step % self._every:
            return None
        ran = {(slot, i) for path in paths for slot, entry in enumerate(path) for i in indices_of(entry)}
        norms = {}
        for slot, choice in sorted(ran):
            grads = [p.grad for p in self._parameters[slot][choice] if p.grad is not None]
            if grads:
                norms[slot, choice] = nn.utils.get_total_norm(grads)
        return norms


def branches_of(supernet: nn.Module) -> list[list[tuple[nn.Module, ...]]]:
    """For each slot and each of its choices the branches: one in every block of the slot."""
    slots = gated_slots(supernet).values()
    return [list(zip(*(block.branches for block in blocks), strict=True)) for blocks in slots]
