"""Several processes that train one run, and the few messages between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import Tensor

from nas.errors import NasError

CPU = torch.device("cpu")


class RankError(NasError):
    """Processes of one run that do not do the same, or one of them that is gone."""


class RankLost(RankError):
    """A message to the other processes failed: as a rule because one of them has ended."""


@dataclass(frozen=True)
class Ranks:
    """One process among those that train a run together, as torch.distributed numbers them.

    Messages go through torch.distributed's default group, which has to be there where ``size`` is above 1. Alone,
    every method gives back what it is given.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        local_rank: number of this process on its machine.
        device: where the messages lie: the CPU for gloo, this process's GPU for NCCL.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this is the process that logs, judges, writes and draws."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over the processes."""
        if self.size > 1:
            self._message(lambda: dist.all_reduce(tensor))
        return tensor

    def mean_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor of floating-point numbers by its mean over the processes."""
        return self.sum_(tensor).div_(self.size) if self.size > 1 else tensor

    @torch.no_grad()
    def broadcast_(self, tensors: Iterable[object]) -> None:
        """Replace those of ``tensors`` that differ by rank 0's, in one message a dtype; what is no tensor is left."""
        if self.size == 1:
            return
        for group in by_dtype([tensor for tensor in tensors if isinstance(tensor, Tensor)]).values():
            # A user's buffers may have gaps or overlap, and have dtypes that gloo does not know: their bytes travel.
            flat = torch.cat([tensor.detach().reshape(-1).to(self.device) for tensor in group])
            self._message(lambda flat=flat: dist.broadcast(flat.view(torch.uint8), 0))  # type: ignore[misc]
            for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                theirs = part.view(tensor.shape).to(tensor.device)
                if not torch.equal(tensor, theirs):
                    tensor.copy_(theirs)

    def must_agree(self, value: object, key: str, shown: object, rule: str, remedy: str) -> None:
        """Refuse to go on unless ``value`` reads the same (``repr``) in all processes; 8 bytes of each travel.

        Args:
            value: what is compared.
            key, shown, rule, remedy: of the error; ``rule`` goes on after the number of the rank that differs.

        Raises:
            RankError: it does not; in every process, with the first rank that differs from rank 0 and ``rule``.
        """
        if self.size == 1:
            return
        digest = int.from_bytes(blake2b(repr(value).encode(), digest_size=8).digest(), "big") >> 1
        own = torch.tensor([digest], device=self.device)
        every = [torch.empty_like(own) for _ in range(self.size)]
        self._message(lambda: dist.all_gather(every, own))
        others = [rank for rank, theirs in enumerate(every) if int(theirs) != int(every[0])]
        if others:
            raise RankError(key, shown, f"rank {others[0]} {rule} than rank 0", remedy)

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """Let one process of each machine go through the block before the others, for what it may download."""
        if self.size > 1 and self.local_rank > 0:
            self._message(dist.barrier)
        yield
        if self.size > 1 and self.local_rank == 0:
            self._message(dist.barrier)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.size > 1:
            self._message(dist.barrier)

    def _message(self, send: Callable[[], object]) -> None:
        try:
            send()
        except RuntimeError as error:  # what gloo and NCCL raise where a peer is gone or too late
            said = re.sub(r"\[\S*\.cc:\d+\] ", "", " ".join(str(error).split())).partition(". ")[0]
            rule = f"lost contact with the other processes ({said[:160]})"
            remedy = "start the same command again to go on; dist.timeout_s is how long they wait for each other"
            raise RankLost("processes", self.size, rule, remedy) from error


ALONE = Ranks()
"""The one process of a run that has no others."""


def by_dtype(tensors: Sequence[Tensor]) -> dict[torch.dtype, list[Tensor]]:
    """``tensors`` in groups that fit into one message each, in their order."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return groups


def pack(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One flat tensor with the values of ``tensors`` of one dtype, and its parts, laid out as they are in memory."""
    flat = tensors[0].new_empty(sum(tensor.numel() for tensor in tensors))
    views = parts(flat, tensors)
    torch._foreach_copy_(views, list(tensors))
    return flat, views


def parts(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """``flat`` in parts of the shapes and strides of ``like``; they have to be dense, as autograd's gradients are."""
    pieces = flat.split([tensor.numel() for tensor in like])
    return [piece.as_strided(t.shape, t.stride()) for piece, t in zip(pieces, like, strict=True)]
