"""The processes that train one run, and the few messages between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import Tensor

from nas.errors import RankError, RankLost

CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """One process among those that train a run together, numbered as torch.distributed does.

    Messages go through torch.distributed's default group, which must exist if ``size`` is above 1. In a world of one
    process, :data:`SINGLE`, every method returns what it is given.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine.
        device: where messages are kept: the CPU for gloo, this process's GPU for NCCL.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        """Whether this is the process that logs, evaluates, writes and draws: rank 0."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over the processes."""
        self.begin_sum_(tensor)()
        return tensor

    def begin_sum_(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to replace ``tensor`` by its sum over the processes; a call of what is returned waits for the end.

        On a GPU it is the current stream that waits. Until then the tensor must neither be read nor written.
        """
        if self.size == 1:
            return lambda: None
        works: list[dist.Work] = []
        self._message(lambda: works.append(dist.all_reduce(tensor, async_op=True)))
        return lambda: self._message(works[0].wait)

    def mean_(self, tensor: Tensor) -> Tensor:
        """Replace a floating-point tensor by its mean over the processes."""
        return self.sum_(tensor).div_(self.size) if self.size > 1 else tensor

    @torch.no_grad()
    def broadcast_(self, tensors: Iterable[object]) -> None:
        """Replace those of ``tensors`` that differ by rank 0's, in one message per dtype; skip what is no tensor."""
        if self.size == 1:
            return
        for group in by_dtype([tensor for tensor in tensors if isinstance(tensor, Tensor)]).values():
            # A user's buffers may have gaps or overlap, and dtypes that gloo does not know: send their bytes.
            flat = torch.cat([tensor.detach().reshape(-1).to(self.device) for tensor in group])
            self._message(lambda flat=flat: dist.broadcast(flat.view(torch.uint8), 0))  # type: ignore[misc]
            for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                theirs = part.view(tensor.shape).to(tensor.device)
                if not torch.equal(tensor, theirs):
                    tensor.copy_(theirs)

    def assert_equal_across_ranks(self, value: object, key: str, shown: object, rule: str, remedy: str) -> None:
        """Raise an error in every process unless ``repr(value)`` is the same in all; 8 bytes of each travel.

        Args:
            value: what is compared.
            key, shown, rule, remedy: parts of the error; ``rule`` follows the number of the rank that differs.

        Raises:
            RankError: the values differ; it names the first rank that differs from rank 0.
        """
        if self.size == 1:
            return
        digest = int.from_bytes(blake2b(repr(value).encode(), digest_size=8).digest(), "big") >> 1
        own = torch.tensor([digest], device=self.device)
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        self._message(lambda: dist.all_gather(gathered, own))
        others = [rank for rank, theirs in enumerate(gathered) if int(theirs) != int(gathered[0])]
        if others:
            raise RankError(key, shown, f"rank {others[0]} {rule} than rank 0", remedy)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let one process of each machine pass the block before the others, which then find what it has downloaded."""
        if self.size > 1 and self.local_rank > 0:
            self._message(dist.barrier)
        yield
        if self.size > 1 and self.local_rank == 0:
            self._message(dist.barrier)

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            self._message(dist.barrier)

    def _message(self, send: Callable[[], object]) -> None:
        try:
            send()
        except RuntimeError as error:  # what gloo and NCCL raise if a peer is gone or too late
            cause = re.sub(r"\[\S*\.cc:\d+\] ", "", " ".join(str(error).split())).partition(". ")[0]
            rule = f"lost contact with the other processes ({cause[:160]})"
            remedy = "start the same command again to go on; dist.timeout_s is how long they wait for each other"
            raise RankLost("processes", self.size, rule, remedy) from error


SINGLE = World()
"""The world of a run in one process."""


def by_dtype(tensors: Sequence[Tensor]) -> dict[torch.dtype, list[Tensor]]:
    """``tensors`` grouped by dtype, since one message carries one dtype; each group keeps their order."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return groups
