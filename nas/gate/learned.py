"""A gate that learns which paths are good, by comparing whole paths on held-out images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from nas.cost import PathCost
from nas.eager import eager_optimizer
from nas.errors import require
from nas.gate.base import Gate
from nas.seeds import generator
from nas.settings import LearnedGateSettings
from nas.space import Architecture, SearchSpace
from nas.state import restore


class LearnedGate(Gate):
    """One logit a choice, learned by a score function over whole paths.

    After a warm-up of uniform paths, every few steps two paths a and b are drawn from the softmax of the logits and
    compared on one held-out batch. With the reward ``r = -loss - weight * |cost / target - 1|``, the log-probability of
    each path gets the difference of its reward to the other's (REINFORCE with a leave-one-out baseline, Kool et al.
    2019). The softmax drops out of the sum of the two: in each slot the logit of a's choice gets ``r(a) - r(b)``, that
    of b's choice the opposite, and where they agree nothing moves. No derivative of the network takes part.

    The logits have an Adam of their own. It has no first moment, which would go on moving choices that are not
    compared, and a short second one: differences shrink as the gate decides, and rare large ones are forgotten.
    The weights' steps run a uniform path with probability ``explore``, else a path of the gate.

    Args:
        total_steps: of the weights.
        flops: of any path, for ``settings.target``.

    Raises:
        SettingError: the target is less than the cheapest path costs, or more than the most expensive one.
    """

    learns = True
    BLOCK = 256
    """Steps whose numbers are drawn together: a draw costs as much for one step as for all of them."""
    TRIES = 31
    """Draws of a second path, until it differs from the first: of twice the same network there is nothing to learn."""

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        settings: LearnedGateSettings,
        total_steps: int,
        flops: PathCost | None = None,
    ) -> None:
        super().__init__(space, seed)
        self.settings, self._flops, self._target = settings, flops, settings.target.get("flops")
        self._begin = settings.warmup * total_steps
        if self._target is not None:
            assert flops is not None, "a target needs a cost"
            low, high = flops.smallest()[1], flops.largest()[1]
            rule = f"paths of space {space.name} have {low:,} to {high:,} FLOPs an image"
            remedy = f"write for example gate.target.flops={(low + high) // 2}"
            require(low <= self._target <= high, "gate.target.flops", f"{self._target:g}", rule, remedy)
        counts = torch.tensor([len(slot.choices) for slot in space.slots])
        choices = torch.arange(int(counts.max()))
        # Slots with fewer choices are padded; the mask leaves the padding no chance.
        self._mask = torch.zeros(len(counts), len(choices)).masked_fill(choices >= counts[:, None], -torch.inf)
        self.logits = nn.Parameter(torch.zeros_like(self._mask))
        self._optimizer = eager_optimizer(torch.optim.Adam)([self.logits], lr=settings.lr, betas=(0.0, 0.9))
        first, second = torch.zeros_like(self._mask), torch.zeros_like(self._mask)
        count = torch.zeros((), dtype=torch.float32)
        self._optimizer.state[self.logits] = {"step": count, "exp_avg": first, "exp_avg_sq": second}
        self._uniform = self._learned = self._bounds()
        self._drawn: tuple[int, list[list[float]]] = (-1, [])

    def probabilities(self) -> list[list[float]]:
        rows = torch.softmax(self.logits.detach() + self._mask, dim=1).tolist()
        return [row[: len(slot.choices)] for row, slot in zip(rows, self.space.slots, strict=True)]

    def favourite(self) -> Architecture:
        return tuple((self.logits.detach() + self._mask).argmax(dim=1).tolist())

    def _bounds(self) -> list[list[float]]:
        """Where, between 0 and 1, one choice of a slot ends and the next begins."""
        return [list(accumulate(row[:-1])) for row in self.probabilities()]

    def paths(self, step: int) -> tuple[Architecture, ...]:
        block, position = divmod(step, self.BLOCK)
        if self._drawn[0] != block:
            self._drawn = (block, self._numbers(self.BLOCK, "gate", block))
        kind, *numbers = self._drawn[1][position]
        return (_path(self._uniform if kind < self.settings.explore else self._learned, numbers),)

    def compared(self, step: int) -> tuple[Architecture, ...]:
        if step < self._begin or (step + 1) % self.settings.every:
            return ()
        draws = self._numbers(1 + self.TRIES, "gate-compared", step)
        first, *others = (_path(self._learned, numbers) for _, *numbers in draws)
        same = self.space.canonical(first)
        second = next((path for path in others if self.space.canonical(path) != same), None)
        return () if second is None else (first, second)

    def _numbers(self, rows: int, *place: str | int) -> list[list[float]]:
        """``rows`` of numbers between 0 and 1: one for the kind of a path, and one for each slot."""
        shape, random = (rows, 1 + len(self.space.slots)), generator(self.seed, *place)
        numbers: list[list[float]] = torch.rand(shape, generator=random, dtype=torch.float64).tolist()
        return numbers

    def reward(self, path: Architecture, loss: float) -> float:
        """What the gate maximises: ``-loss``, less what the path's cost is off the target."""
        if self._target is None or self._flops is None:
            return -loss
        return -loss - self.settings.target_weight * abs(self._flops(path) / self._target - 1)

    def learn(self, paths: Sequence[Architecture], losses: Sequence[float]) -> None:
        (a, b), (r_a, r_b) = paths, map(self.reward, paths, losses)
        gradient = torch.zeros_like(self.logits)
        slots = torch.arange(len(self.space.slots))
        gradient[slots, torch.tensor(a)] -= (r_a - r_b) / 2
        gradient[slots, torch.tensor(b)] += (r_a - r_b) / 2
        self.logits.grad = gradient
        self._optimizer.step()
        self._learned = self._bounds()

    def state_dict(self) -> dict[str, Tensor]:
        return {"logits": self.logits.detach(), **self._optimizer.state[self.logits]}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        restore(self.state_dict(), state)
        self._learned = self._bounds()


def _path(bounds: list[list[float]], numbers: list[float]) -> Architecture:
    """The choices that ``numbers``, one a slot, fall on."""
    return tuple(map(bisect_right, bounds, numbers))
