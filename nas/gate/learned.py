"""A gate that learns which paths are good, by comparing whole paths on held-out images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from nas.cost import PathCost
from nas.eager import eager_optimizer
from nas.errors import require
from nas.gate.base import Gate
from nas.nn import active_of, indices_of
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

    Several open branches of a slot are drawn one after the other, each from the softmax over those that are left
    (Plackett 1975), which is the order of the logits with Gumbel noise on them (Kool et al. 2019, "Stochastic Beams").
    The gradient is that of the log-probability of this order: the softmax of the first draw drops out, those of the
    others do not. Where the number of branches is drawn too, it has logits of its own, behind those of the choices.

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
        # Slots with fewer choices, or numbers of them, are padded; the mask leaves the padding no chance.
        self._choices = int(counts.max())
        most = max(map(len, space.numbers))
        numbers = torch.tensor([len(found) for found in space.numbers])
        columns = [_padding(counts, self._choices), _padding(numbers, most if most > 1 else 0)]
        self._mask = torch.cat(columns, dim=1)
        self.logits = nn.Parameter(torch.zeros_like(self._mask))
        self._optimizer = eager_optimizer(torch.optim.Adam)([self.logits], lr=settings.lr, betas=(0.0, 0.9))
        first, second = torch.zeros_like(self._mask), torch.zeros_like(self._mask)
        count = torch.zeros((), dtype=torch.float32)
        self._optimizer.state[self.logits] = {"step": count, "exp_avg": first, "exp_avg_sq": second}
        self._uniform = self._learned = self._bounds()
        self._drawn: tuple[int, list[float], Any] = (-1, [], [])

    def probabilities(self) -> list[list[float]]:
        rows = torch.softmax((self.logits.detach() + self._mask)[:, : self._choices], dim=1).tolist()
        return [row[: len(slot.choices)] for row, slot in zip(rows, self.space.slots, strict=True)]

    def favourite(self) -> Architecture:
        return _sorted(self._largest(self.logits.detach() + self._mask))

    def _bounds(self) -> list[list[float]]:
        """Where, between 0 and 1, one choice of a slot ends and the next begins."""
        return [list(accumulate(row[:-1])) for row in self.probabilities()]

    def paths(self, step: int) -> tuple[Architecture, ...]:
        block, position = divmod(step, self.BLOCK)
        if self._drawn[0] != block:
            self._drawn = (block, *self._random(self.BLOCK, "gate", block))
        _, kinds, noise = self._drawn
        return (_sorted(self._path(noise[position], uniform=kinds[position] < self.settings.explore)),)

    def compared(self, step: int) -> tuple[Architecture, ...]:
        """Two paths, or none; the branches of an entry stand in the order in which they were drawn."""
        if step < self._begin or (step + 1) % self.settings.every:
            return ()
        _, noise = self._random(1 + self.TRIES, "gate-compared", step)
        paths = map(self._path, noise)
        first = next(paths)
        same = self.space.canonical(_sorted(first))
        second = next((path for path in paths if self.space.canonical(_sorted(path)) != same), None)
        return () if second is None else (first, second)

    def _random(self, rows: int, *place: str | int) -> tuple[list[float], Any]:
        """For each of ``rows`` paths a number between 0 and 1 for its kind, and what decides on its entries."""
        slots, several = len(self.space.slots), self.space.several
        shape = rows, 1 + (self._mask.numel() if several else slots)
        numbers = torch.rand(shape, generator=generator(self.seed, *place), dtype=torch.float64)
        kinds: list[float] = numbers[:, 0].tolist()
        if not several:
            return kinds, numbers[:, 1:].tolist()
        gumbel = -(-numbers[:, 1:].clamp(min=1e-300).log()).log()
        return kinds, gumbel.view(rows, *self._mask.shape)

    def _path(self, noise: Any, uniform: bool = False) -> Architecture:
        """The path that random numbers fall on, the branches of an entry in the order in which they are drawn."""
        if self.space.several:
            return self._largest(noise + self._mask + (0 if uniform else self.logits.detach()))
        return tuple(map(bisect_right, self._uniform if uniform else self._learned, noise))

    def _largest(self, keys: Tensor) -> Architecture:
        """In each slot the number of branches with the largest key, and so many branches with the largest keys."""
        order = keys[:, : self._choices].argsort(dim=1, descending=True, stable=True).tolist()
        numbers = keys[:, self._choices :]
        places = numbers.argmax(dim=1).tolist() if numbers.numel() else [0] * len(order)
        known = zip(order, places, self.space.numbers, strict=True)
        return tuple(active_of(branches[: found[place]]) for branches, place, found in known)

    def reward(self, path: Architecture, loss: float) -> float:
        """What the gate maximises: ``-loss``, less what the path's cost is off the target."""
        if self._target is None or self._flops is None:
            return -loss
        return -loss - self.settings.target_weight * abs(self._flops(path) / self._target - 1)

    def learn(self, paths: Sequence[Architecture], losses: Sequence[float]) -> None:
        (a, b), (r_a, r_b) = paths, map(self.reward, paths, losses)
        self.logits.grad = (self._score(b) - self._score(a)) * ((r_a - r_b) / 2)
        self._optimizer.step()
        self._learned = self._bounds()

    def _score(self, path: Architecture) -> Tensor:
        """The gradient of the log-probability of ``path``, less the part of the first draw that all paths share."""
        score, left = torch.zeros_like(self._mask), (self.logits.detach() + self._mask)[:, : self._choices]
        order = [*map(indices_of, path)]
        for draw in range(max(map(len, order))):
            slots = [slot for slot, branches in enumerate(order) if len(branches) > draw]
            taken = [order[slot][draw] for slot in slots]
            if draw > 0:
                score[slots, : self._choices] -= torch.softmax(left[slots], dim=1)
            score[slots, taken] += 1
            left[slots, taken] = -torch.inf
        if self._mask.shape[1] > self._choices:
            known = zip(order, self.space.numbers, strict=True)
            places = [self._choices + numbers.index(len(branches)) for branches, numbers in known]
            score[range(len(places)), places] += 1
        return score

    def state_dict(self) -> dict[str, Tensor]:
        return {"logits": self.logits.detach(), **self._optimizer.state[self.logits]}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        restore(self.state_dict(), state)
        self._learned = self._bounds()


def _padding(counts: Tensor, columns: int) -> Tensor:
    """``(len(counts), columns)``: 0, and -inf behind as many as each row has."""
    return torch.zeros(len(counts), columns).masked_fill(torch.arange(columns) >= counts[:, None], -torch.inf)


def _sorted(path: Architecture) -> Architecture:
    return tuple(entry if isinstance(entry, int) else tuple(sorted(entry)) for entry in path)
