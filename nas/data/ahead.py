"""The next batch, made by another thread while a step computes: a core that is idle does it for nothing."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import torch

from nas.data.batches import Batches
from nas.data.ordered import Batch


class Ahead(AbstractContextManager["Ahead"]):
    """Gives the batches of ``batches``, and begins with the next one as soon as one is asked for; a context.

    A batch is a function of its step, so it is the same one whoever makes it. Nothing is made ahead on a GPU, which
    computes behind its launches anyway; on several threads, which would share their cores; nor where functions of the
    user's own change images: those draw from torch's global generator, which is that of the step.

    Args:
        batches: whose batches.
        end: the step before which there is one more batch to make.
    """

    def __init__(self, batches: Batches, end: int) -> None:
        self._batches, self._end = batches, end
        alone = batches.device.type == "cpu" and torch.get_num_threads() == 1 and not batches.draws_globally
        self._pool = ThreadPoolExecutor(1, "batches") if alone else None
        self._next: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        """The batch of ``step``; see :meth:`nas.data.Batches.batch`."""
        made, self._next = self._next, None
        found = made[1].result() if made is not None and made[0] == step else self._batches.batch(step)
        if self._pool is not None and step + 1 < self._end:
            self._next = step + 1, self._pool.submit(self._batches.batch, step + 1)
        return found

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
