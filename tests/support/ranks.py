"""Several processes on this machine that train together."""

import multiprocessing
import os
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from nas.nn import GatedSum
from nas.train.ranks import Ranks

TIMEOUT_S = 60


def together(number, work, folder, *args):
    """``work(ranks, *args)`` in ``number`` processes that talk through gloo; returns what each has returned.

    What is returned has to be tensors and plain data. An error in a process is an error here.
    """
    folder = Path(folder) / "ranks"
    folder.mkdir(exist_ok=True, parents=True)
    for old in folder.iterdir():
        old.unlink()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run, args=(rank, number, work, folder, args)) for rank in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_S)
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("*.error"))]
    assert not errors, "\n".join(errors)
    assert not hanging, f"{len(hanging)} processes hang"
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(number)]


def _run(rank, number, work, folder, args):
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(str(folder / "store"), number)
        wait = timedelta(seconds=TIMEOUT_S)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=number, timeout=wait)
        torch.save(work(Ranks(rank, number, rank), *args), folder / f"{rank}.pt")
        if dist.is_initialized():  # the work may have left the others
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:  # whatever it is, the test has to see it
        (folder / f"{rank}.error").write_text(f"rank {rank}: {traceback.format_exc()}")
        raise


class Restless(nn.Module):
    """A network that is made otherwise in every process, and notes what its dropout draws."""

    def __init__(self):
        super().__init__()
        self.mix = GatedSum([nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)])
        self.fc = nn.Linear(4, 3)
        self.drawn = []
        with torch.no_grad():
            self.fc.weight.fill_(os.getpid() % 1000 / 1000)

    def forward(self, x, architecture):
        if self.training and torch.is_grad_enabled():
            self.drawn.append(nn.functional.dropout(torch.ones(64)))
        return self.fc(self.mix(x, architecture[0]).mean((2, 3)))
