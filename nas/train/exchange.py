"""The gradients of a step, summed over the processes: those that exist, in one flat buffer a dtype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nas.settings import DistSettings
from nas.space import Architecture
from nas.train.optimize import GatedOptimizer
from nas.train.ranks import Ranks, by_dtype, pack


class Exchange:
    """Sums what the backward passes of all processes have left in ``.grad``.

    With ``dist.paths=same`` every process has run the same paths on its own part of the batch. Each has the gradient of
    the mean loss over its part; all parts have the same size, so the sum divided by the number of processes is the
    gradient of the mean loss over the whole batch. What travels has the size of the open branches, whatever else the
    supernet has.

    With ``dist.paths=own`` every process has run paths of its own. A message of 4 bytes a parameter tensor says how
    many processes have used it; the gradients of all that anyone has used are summed and divided by that number.

    DistributedDataParallel sums the gradients of *all* parameters, or searches the graph for unused ones
    (``find_unused_parameters``), and sends their zeros.

    Args:
        ranks: the processes.
        optimizer: knows which parameters have got a gradient in this step.
        settings: whose paths are run, and how often it is checked that all do the same.
    """

    def __init__(self, ranks: Ranks, optimizer: GatedOptimizer, settings: DistSettings) -> None:
        self.ranks, self.optimizer, self.settings = ranks, optimizer, settings
        self._place: dict[Tensor, int] = {parameter: place for place, parameter in enumerate(optimizer.parameters)}

    def __call__(self, step: int, paths: Sequence[Architecture], figures: Sequence[float]) -> list[float]:
        """Sum the gradients; returns ``figures`` summed over the processes, which travel with them.

        Args:
            step: its number; every ``dist.check_every`` steps the processes compare what they do.
            paths: of all processes, in their order.
            figures: plain numbers of this process, for example its loss.

        Raises:
            RankError: the processes run different architectures, or different parameters got a gradient.
            RankLost: another process is gone.
        """
        places = sorted(self._place[parameter] for parameter in self.optimizer.used)
        same = self.settings.paths == "same"
        if step % self.settings.check_every == 0:
            work = (step, tuple(paths), places if same else None)
            rule, remedy = "runs another architecture, or other parameters of it,", "see that all run the same code"
            self.ranks.must_agree(work, "architecture", tuple(paths), rule, remedy)
        if same:
            used = [self.optimizer.parameters[place] for place in places]
            return self._sum(used, [self.ranks.size] * len(used), figures)
        counts = torch.zeros(len(self._place), dtype=torch.int32)
        counts[places] = 1
        users = self.ranks.sum_(counts.to(self.ranks.device)).cpu()
        everyones = users.nonzero().flatten()
        used = [self.optimizer.parameters[place] for place in everyones.tolist()]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizer.use(used)
        return self._sum(used, users[everyones].tolist(), figures)

    @torch.no_grad()
    def _sum(self, used: Sequence[Tensor], divisors: Sequence[int], figures: Sequence[float]) -> list[float]:
        gradients = [parameter.grad for parameter in used if parameter.grad is not None]
        assert len(gradients) == len(used), "a parameter was used and has no gradient"
        wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
        told = torch.tensor(figures, dtype=wide, device=self.ranks.device)
        summed: dict[torch.dtype, Iterator[Tensor]] = {}
        for dtype, group in by_dtype([*gradients, told]).items():
            flat, views = pack(group)
            self.ranks.sum_(flat)
            summed[dtype] = iter(views)
        # The parts of the flat tensor become the gradients: no copy back.
        for parameter, gradient in zip(used, gradients, strict=True):
            parameter.grad = next(summed[gradient.dtype])
        torch._foreach_div_([p.grad for p in used if p.grad is not None], [float(number) for number in divisors])
        told = next(summed[wide])
        return [float(figure) for figure in told]
