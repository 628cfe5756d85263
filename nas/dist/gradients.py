"""The gradients of a step, summed over the processes: those that exist, in one flat buffer per dtype."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from nas.dist.world import SINGLE, World, by_dtype
from nas.settings import DistSettings
from nas.space import Architecture


class UsedParameters(Protocol):
    """What an exchange asks of an optimizer, see :class:`nas.train.GatedOptimizer`."""

    parameters: list[nn.Parameter]

    @property
    def used(self) -> list[Tensor]:
        """The parameters that have got a gradient in this step."""

    def use(self, parameters: Iterable[Tensor]) -> None:
        """Update these in this step instead."""


class NoExchange:
    """The exchange of a single process: there is nothing to sum."""

    world = SINGLE

    def __call__(self, step: int, paths: Sequence[Architecture], figures: Tensor) -> Tensor:
        """Return ``figures`` as they are."""
        return figures


NO_EXCHANGE = NoExchange()


class GradientExchange(NoExchange):
    """Sums what the backward passes of all processes have left in ``.grad``.

    With ``dist.paths=same`` every process has run the same paths on its own part of the batch. Each has the gradient of
    the mean loss over its part; all parts have the same size, so the sum divided by the number of processes is the
    gradient of the mean loss over the whole batch. The message has the size of the open branches, whatever else the
    supernet holds.

    With ``dist.paths=own`` every process has run paths of its own. A message of 4 bytes per parameter tensor tells how
    many processes have used it; the gradients that any process has are summed and divided by that number.

    DistributedDataParallel sums the gradients of *all* parameters, or searches the graph for unused ones
    (``find_unused_parameters``), and sends their zeros.

    Args:
        world: the processes.
        optimizer: knows which parameters have got a gradient in this step.
        settings: whether the paths are the same, and how often the processes compare what they do.
    """

    def __init__(self, world: World, optimizer: UsedParameters, settings: DistSettings) -> None:
        self.world, self.optimizer, self.settings = world, optimizer, settings
        self._place: dict[Tensor, int] = {parameter: place for place, parameter in enumerate(optimizer.parameters)}

    def __call__(self, step: int, paths: Sequence[Architecture], figures: Tensor) -> Tensor:
        """Sum the gradients; return ``figures`` summed over the processes, which travel with them.

        What is returned is a tensor of its own: it may be kept over later steps, and is not read here.

        Args:
            step: number of the step; every ``dist.check_every`` steps the processes compare what they do.
            paths: the paths of all processes, in the order of the ranks.
            figures: ``(n,)``, floats of this process, for example its loss, on the device of the gradients.

        Raises:
            RankError: the processes run different architectures, or different parameters got a gradient.
            RankLost: another process is gone.
        """
        places = sorted(self._place[parameter] for parameter in self.optimizer.used)
        same = self.settings.paths == "same"
        if step % self.settings.check_every == 0:
            work = (step, tuple(paths), places if same else None)
            rule = "runs a different architecture, or uses different parameters,"
            remedy = "see that all run the same code"
            self.world.assert_equal_across_ranks(work, "architecture", tuple(paths), rule, remedy)
        if same:
            used = [self.optimizer.parameters[place] for place in places]
            return self._sum(used, [self.world.size] * len(used), figures)
        counts = torch.zeros(len(self._place), dtype=torch.int32)
        counts[places] = 1
        users = self.world.sum_(counts.to(self.world.device)).cpu()
        used_anywhere = users.nonzero().flatten()
        used = [self.optimizer.parameters[place] for place in used_anywhere.tolist()]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizer.use(used)
        return self._sum(used, users[used_anywhere].tolist(), figures)

    @torch.no_grad()
    def _sum(self, used: Sequence[Tensor], divisors: Sequence[int], figures: Tensor) -> Tensor:
        gradients = [parameter.grad for parameter in used if parameter.grad is not None]
        assert len(gradients) == len(used), "a parameter was used and has no gradient"
        wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
        packed_figures = figures.to(wide)
        summed: dict[torch.dtype, Iterator[Tensor]] = {}
        for dtype, group in by_dtype([*gradients, packed_figures]).items():
            flat, views = pack(group)
            self.world.sum_(flat)
            summed[dtype] = iter(views)
        # The parts of the flat tensor become the gradients: no copy back.
        for parameter, gradient in zip(used, gradients, strict=True):
            parameter.grad = next(summed[gradient.dtype])
        torch._foreach_div_([p.grad for p in used if p.grad is not None], [float(number) for number in divisors])
        return next(summed[wide]).clone()  # which does not keep the flat tensor in memory


def pack(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One flat tensor with the values of ``tensors`` of one dtype, and its parts in their shapes and strides."""
    flat = tensors[0].new_empty(sum(tensor.numel() for tensor in tensors))
    views = parts(flat, tensors)
    torch._foreach_copy_(views, list(tensors))
    return flat, views


def parts(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """``flat`` in parts of the shapes and strides of ``like``, which must be dense, as autograd's gradients are."""
    pieces = flat.split([tensor.numel() for tensor in like])
    return [piece.as_strided(t.shape, t.stride()) for piece, t in zip(pieces, like, strict=True)]
