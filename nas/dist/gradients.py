"""The gradients of a step, summed over the processes: those that exist, while the backward pass still runs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
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

    def backward(self, loss: Tensor, step: int, last: bool) -> None:
        """Run the backward pass of ``loss``, the ``last`` one of the step or not."""
        loss.backward()

    def __call__(self, step: int, paths: Sequence[Architecture], figures: Tensor) -> Tensor:
        """Return ``figures`` as they are."""
        return figures


NO_EXCHANGE = NoExchange()


class GradientExchange(NoExchange):
    """Sums the gradients that the backward passes of all processes leave in ``.grad``, while the last one runs.

    With ``dist.paths=same`` every process has run the same paths on its own part of the batch. All parts have the same
    size, so the mean of the processes' gradients is the gradient of the mean loss over the whole batch. The messages
    have the size of the open branches, whatever else the supernet holds.

    The graph of a loss tells which gradients its backward pass will bring. In the reverse order of the network's
    parameters they are parted into messages of :attr:`message_bytes`, each of which leaves when its gradients are there
    and the messages before it have left. What does not fill a message, in a small network everything, travels at the
    end with the figures; so does a gradient that has come unforeseen, or once more after its message had left, and a
    message of which one has not come. So the messages follow from what a step uses alone: neither from earlier steps,
    which a run that goes on has not seen, nor from the order in which gradients come, which may differ.

    With ``dist.paths=own`` every process has run paths of its own. A message of 4 bytes per parameter tensor tells how
    many processes have used it; the gradients that any process has are summed and divided by that number, all at the
    end, since no process knows before what the others use.

    DistributedDataParallel sums the gradients of *all* parameters, or searches the graph for unused ones
    (``find_unused_parameters``), and sends their zeros.

    Args:
        world: the processes.
        optimizer: knows which parameters have got a gradient in this step.
        settings: whether the paths are the same, and how often the processes compare what they do.
    """

    message_bytes: float = 2**22
    """From this size on a message leaves before the backward pass has ended; chosen by ``scripts/scale.py --wide``."""

    def __init__(self, world: World, optimizer: UsedParameters, settings: DistSettings) -> None:
        self.world, self.optimizer, self.settings = world, optimizer, settings
        self._place: dict[Tensor, int] = {parameter: place for place, parameter in enumerate(optimizer.parameters)}
        self._same = settings.paths == "same"
        self._messages: deque[list[Tensor]] = deque()  # the parameters of those that have not left
        self._awaited: set[Tensor] = set()
        self._sums: dict[Tensor, Tensor] = {}  # what .grad will be, where it is on its way
        self._waits: list[Callable[[], None]] = []
        self._overlaps = self._same and sum(map(size, optimizer.parameters)) > self.message_bytes
        if self._overlaps:
            for parameter in optimizer.parameters:
                parameter.register_post_accumulate_grad_hook(self._arrived)

    def backward(self, loss: Tensor, step: int, last: bool) -> None:
        """Run the backward pass of ``loss``, and send what the ``last`` one of a step completes.

        In a step in which the processes compare what they do, nothing is sent before they have.

        Raises:
            RankLost: another process is gone.
        """
        with ExitStack() as on_an_error:
            on_an_error.callback(self._forget)
            if last and self._overlaps and step % self.settings.check_every:
                self._plan(leaves(loss) & self._place.keys())
            # The mean over the processes is taken here, where it costs nothing, and not over all gradients again.
            loss.backward(torch.full_like(loss, 1 / self.world.size if self._same else 1.0))
            on_an_error.pop_all()

    def _plan(self, coming: set[Tensor]) -> None:
        self._awaited = coming
        filling: dict[torch.dtype, list[Tensor]] = {}
        filled: Counter[torch.dtype] = Counter()
        for place in sorted((self._place[p] for p in coming.union(self.optimizer.used)), reverse=True):
            parameter = self.optimizer.parameters[place]
            filling.setdefault(parameter.dtype, []).append(parameter)
            filled[parameter.dtype] += size(parameter)
            if filled[parameter.dtype] >= self.message_bytes:
                self._messages.append(filling.pop(parameter.dtype))
                del filled[parameter.dtype]
        self._send_what_is_there()

    def _arrived(self, parameter: Tensor) -> None:
        if parameter.grad is None:  # torch reports an undefined gradient, too
            return
        if parameter in self._awaited:
            self._awaited.remove(parameter)
            self._send_what_is_there()
        else:
            self._sums.pop(parameter, None)  # which lacks what has come now

    def _send_what_is_there(self) -> None:
        while self._messages and self._awaited.isdisjoint(self._messages[0]):
            self._send(self._messages.popleft())

    @torch.no_grad()
    def _send(self, parameters: Sequence[Tensor], *figures: Tensor) -> list[Tensor]:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        assert len(gradients) == len(parameters), "a parameter was used and has no gradient"
        flat, sums = pack([*gradients, *figures])
        self._waits.append(self.world.begin_sum_(flat))
        self._sums.update(zip(parameters, sums, strict=False))
        return sums

    def _forget(self) -> None:
        for of_this_step in (self._messages, self._awaited, self._sums, self._waits):
            of_this_step.clear()

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
        if step % self.settings.check_every == 0:
            work = (step, tuple(paths), places if self._same else None)
            rule = "runs a different architecture, or uses different parameters,"
            remedy = "see that all run the same code"
            self.world.assert_equal_across_ranks(work, "architecture", tuple(paths), rule, remedy)
        if self._same:
            return self._sum([self.optimizer.parameters[place] for place in places], figures)
        counts = torch.zeros(len(self._place), dtype=torch.int32)
        counts[places] = 1
        users = self.world.sum_(counts.to(self.world.device)).cpu()
        used_anywhere = users.nonzero().flatten()
        used = [self.optimizer.parameters[place] for place in used_anywhere.tolist()]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizer.use(used)
        figures = self._sum(used, figures)
        divisors = [float(number) for number in users[used_anywhere].tolist()]
        torch._foreach_div_([p.grad for p in used if p.grad is not None], divisors)
        return figures

    def _sum(self, used: Sequence[Tensor], figures: Tensor) -> Tensor:
        """Send what is left, wait for everything and put it in place."""
        wide = torch.float64 if any(p.dtype == torch.float64 for p in used) else torch.float32
        left = by_dtype([parameter for parameter in used if parameter not in self._sums])
        try:
            for dtype, parameters in left.items():
                if dtype != wide:
                    self._send(parameters)
            total = self._send(left.get(wide, []), figures.to(wide))[-1]
            for wait in self._waits:
                wait()
            # The parts of the flat tensors become the gradients: no copy back.
            for parameter, gradient in self._sums.items():
                parameter.grad = gradient
        finally:
            self._forget()
        return total.clone()  # which does not keep the flat tensor in memory


def size(tensor: Tensor) -> int:
    """The bytes of its values."""
    return tensor.numel() * tensor.element_size()


def leaves(loss: Tensor) -> set[Tensor]:
    """The tensors whose ``.grad`` a backward pass from ``loss`` adds to, as far as its graph shows them."""
    found: set[Tensor] = set()
    assert loss.grad_fn is not None
    seen, todo = {loss.grad_fn}, [loss.grad_fn]
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is None or node in seen:
                continue
            seen.add(node)
            if isinstance(variable := getattr(node, "variable", None), Tensor):
                found.add(variable)
            else:
                todo.append(node)
    return found


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
