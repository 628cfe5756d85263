"""Joining the processes that torchrun has started, and leaving them with one message about what went wrong."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import Store

from nas.dist.device import choose_device
from nas.dist.world import CPU, World
from nas.errors import NasError, RankError, RankLost
from nas.signals import ignore_stops


@contextmanager
def joined(device: str, timeout_s: float) -> Iterator[World]:
    """Join the other processes for as long as the block lasts.

    The first process that fails raises its error; the others, which fail because it is gone, exit in silence.

    Args:
        device: ``train.device``; messages go through NCCL on GPUs, through gloo on CPUs.
        timeout_s: seconds to wait for each message.

    Raises:
        RankLost: the other processes are not there.
        NasError: this process has failed first; the message begins with its rank.
        SystemExit: another process has failed first.
    """
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    own = choose_device(device, local_rank)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    timeout = timedelta(seconds=timeout_s)
    backend = "nccl" if own.type == "cuda" else "gloo"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun may keep its store over a restart, with the addresses of the processes before it.
        store = dist.PrefixStore(meet(store, rank, size, timeout_s), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except RuntimeError as error:
        place, cause = os.environ.get("MASTER_ADDR"), " ".join(str(error).split())[:160]
        rule = f"the other processes were not found there ({cause})"
        raise RankLost("MASTER_ADDR", place, rule, "start all with the same address and number of processes") from error
    failed = True
    try:
        yield World(rank, size, local_rank, own if backend == "nccl" else CPU)
        failed = False
    except (NasError, OSError) as error:
        ignore_stops()
        if not _first_to_fail(store):
            sys.exit(1)
        if isinstance(error, OSError):
            remedy = "make room, and start the same command again"
            raise RankError(f"rank {rank}", error.filename, error.strerror or str(error), remedy) from error
        error.args = (f"rank {rank}: {error}",)
        raise
    finally:
        if failed:
            _first_to_fail(store)  # after an error of another kind its traceback speaks, and no other process
        if not failed or backend == "gloo":  # NCCL would wait for the others
            dist.destroy_process_group()


def meet(store: Store, rank: int, size: int, timeout_s: float) -> str:
    """A name for this start that all processes have confirmed.

    Rank 0 invites under a name of its own, the others answer with theirs, rank 0 lists the answers. An invitation left
    by an earlier start has no answer of this process in its list, and is passed over. The number of torchrun's restarts
    would not do as a name: it differs between machines.

    Raises:
        RuntimeError: the others did not come in time.
    """
    own, end = uuid.uuid4().hex, time.monotonic() + timeout_s
    if rank == 0:
        answers = [f"nas/{own}/{other}" for other in range(1, size)]
        store.set("nas/invitation", own)
        while not all(store.check([answer]) for answer in answers):
            _wait_until(end, "not all the others have answered")
        store.set(f"nas/{own}/list", ",".join(store.get(answer).decode() for answer in answers))
        return own
    while True:
        if store.check(["nas/invitation"]):
            name = store.get("nas/invitation").decode()
            store.set(f"nas/{name}/{rank}", own)
            if store.check([f"nas/{name}/list"]) and own in store.get(f"nas/{name}/list").decode().split(","):
                return name
        _wait_until(end, "rank 0 has not invited")


def _wait_until(end: float, rule: str) -> None:
    if time.monotonic() > end:
        raise RuntimeError(rule)
    time.sleep(0.02)


def _first_to_fail(store: Store) -> bool:
    try:
        return bool(store.add("nas/failed", 1) == 1)
    except RuntimeError:  # the process that kept the store is gone: nobody knows, so everybody speaks
        return True
