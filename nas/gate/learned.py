"""A gate that learns which branch to open, at the cost of the one branch that it opens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nas.eager import eager_optimizer
from nas.errors import DivergedError
from nas.gate.base import Gate
from nas.nn import WeightedBranch
from nas.seeds import generator
from nas.settings import LearnedGateSettings
from nas.space import Architecture, SearchSpace
from nas.state import restore


class LearnedGate(Gate):
    """One logit a choice; a hard sample a step with Gumbel noise; a straight-through gradient (GDAS, Dong 2019).

    The weights' steps run a plain path that is drawn from the softmax of the logits. In a step of the logits
    the open branch's output is multiplied by ``1 + p - p.detach()``, where p is the probability of that branch
    under the noise and the temperature: its value is exactly 1, its derivative reaches the logits. The closed
    branches are not computed there either.

    The logits have an Adam of their own and learn on held-out images. The temperature falls geometrically.

    Args:
        total_steps: of the weights; the temperature is at its end then.
    """

    def __init__(self, space: SearchSpace, seed: int, settings: LearnedGateSettings, total_steps: int) -> None:
        super().__init__(space, seed)
        self.settings, self.total_steps = settings, total_steps
        counts = torch.tensor([len(slot.choices) for slot in space.slots])
        choices = torch.arange(int(counts.max()))
        # Slots with fewer choices are padded; the mask makes the padding improbable beyond any noise.
        self._mask = torch.zeros(len(counts), len(choices)).masked_fill(choices >= counts[:, None], -torch.inf)
        self.logits = nn.Parameter(torch.zeros_like(self._mask))
        self._optimizer = eager_optimizer(torch.optim.Adam)([self.logits], lr=settings.lr, betas=(0.5, 0.999))
        first, second = torch.zeros_like(self._mask), torch.zeros_like(self._mask)
        count = torch.zeros((), dtype=torch.float32)
        self._optimizer.state[self.logits] = {"step": count, "exp_avg": first, "exp_avg_sq": second}

    def temperature(self, step: int) -> float:
        """The temperature, in step ``step``, of the softmax that the gradient goes through."""
        start, end = self.settings.temperature, self.settings.final_temperature
        return float(start * (end / start) ** min(step / max(self.total_steps, 1), 1.0))

    def probabilities(self) -> list[list[float]]:
        """The chance of each choice of each slot, without noise."""
        rows = torch.softmax(self.logits.detach() + self._mask, dim=1)
        return [row[: len(slot.choices)].tolist() for row, slot in zip(rows, self.space.slots, strict=True)]

    def best(self) -> Architecture:
        """The most probable architecture."""
        return tuple((self.logits.detach() + self._mask).argmax(dim=1).tolist())

    def _noisy(self, stream: str, step: int) -> Tensor:
        uniform = torch.rand(self.logits.shape, generator=generator(self.seed, stream, step))
        gumbel = -torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float32).tiny)))
        return self.logits + self._mask + gumbel

    @torch.no_grad()
    def paths(self, step: int) -> tuple[Architecture, ...]:
        return (tuple(self._noisy("gate", step).argmax(dim=1).tolist()),)

    def is_due(self, step: int) -> bool:
        """Whether the logits learn after step ``step`` of the weights."""
        return (step + 1) % self.settings.every == 0

    def learn(
        self,
        step: int,
        loss_of: Callable[[Architecture], Tensor],
        mean: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> float:
        """One step of the logits; returns the loss.

        Args:
            step: of the weights.
            loss_of: the loss on held-out images of a supernet run with the given architecture.
            mean: gives the mean of a tensor over the processes, each of which has images of its own.

        Raises:
            DivergedError: the loss is not finite.
        """
        noisy = self._noisy("gate-learn", step)
        index = noisy.argmax(dim=1, keepdim=True)
        chance = torch.softmax(noisy / self.temperature(step), dim=1).gather(1, index).squeeze(1)
        factor = (chance - chance.detach() + 1).to(torch.get_default_dtype())
        architecture = tuple(
            WeightedBranch(i, weight) for i, weight in zip(index[:, 0].tolist(), factor.unbind(), strict=True)
        )
        loss = loss_of(architecture)
        # A choice may compute nothing; if no open branch reaches the loss, the gradient is zero.
        gradient = torch.zeros_like(self.logits)
        if bool(torch.isfinite(loss)):
            (gradient,) = torch.autograd.grad(loss, [self.logits], materialize_grads=True)
        told = mean(torch.cat([loss.detach().reshape(1), gradient.flatten().to(loss)]))
        value = float(told[0])
        if not math.isfinite(value):
            rule = f"the held-out loss is {value} at step {step} on path {tuple(map(int, architecture))}"
            raise DivergedError("gate.lr", self.settings.lr, rule, "lower optimizer.lr or gate.lr")
        self.logits.grad = told[1:].view_as(self.logits).to(self.logits)
        self._optimizer.step()
        return value

    def state_dict(self) -> dict[str, Tensor]:
        return {"logits": self.logits.detach(), **self._optimizer.state[self.logits]}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        restore(self.state_dict(), state)
