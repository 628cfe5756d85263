"""``torchrun -m nas.cli.train``: this process among those that train one run."""

from __future__ import annotations

import io
import os
import shlex
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from datetime import timedelta
from typing import TYPE_CHECKING

from nas.errors import NasError, SettingError, require

if TYPE_CHECKING:
    from torch.distributed import Store

    from nas.train.ranks import Ranks

GRACE_S = 5.0
"""What rank 0 has to say about a command line that all processes refuse, before another one ends them all."""


def size() -> int:
    """How many processes torchrun, or whoever sets ``WORLD_SIZE``, has started; 1 where nobody has."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_size() -> int:
    """How many of them are on this machine, as far as this process knows."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size()))


@contextmanager
def one_voice(words: Sequence[str]) -> Iterator[None]:
    """Let rank 0 alone say what is wrong with a command line that all processes have got.

    Until a process has joined the others (:func:`joined`), its standard error is kept. Where it ends before that, it
    waits for the end that torchrun makes to all as soon as rank 0 has ended; if that does not come, nobody else has
    had that trouble, and it is said after all.
    """
    if size() == 1:
        yield
        return
    kept = io.StringIO()
    with redirect_stderr(kept) if int(os.environ["RANK"]) > 0 else nullcontext():
        try:
            _check_command(words)
            yield
        except SystemExit:
            if kept.getvalue():
                time.sleep(GRACE_S)
                print(kept.getvalue(), end="", file=sys.__stderr__)
            raise


def _check_command(words: Sequence[str]) -> None:
    """Refuse a sweep, and a run whose folder would have another name in every process and after every restart."""
    from nas.config import is_sweep

    try:
        if is_sweep(words):
            rule = "starts several runs, but under torchrun all processes train one"
            raise SettingError("flag", "-m", rule, "write a loop around torchrun, or leave torchrun out")
        if not any(word.startswith(("run=", "hydra.run.dir=")) for word in words):
            rule = "must be given under torchrun: the default is the time, another one in every process"
            raise SettingError("run", "(none)", rule, "write run=NAME")
    except SettingError as error:
        print(f"nas-train: {error}", file=sys.stderr)
        sys.exit(1)


def refuse_several(key: str, value: object) -> None:
    """Refuse what is not made for several processes.

    Raises:
        SettingError: there are several.
    """
    require(size() == 1, key, value, "trains its networks in one process", "leave torchrun out")


@contextmanager
def joined(device: str, timeout_s: float) -> Iterator[Ranks]:
    """Join the other processes for as long as the block lasts; alone, nothing happens.

    The first process that fails says why; the others, which fail because it is gone, are silent.

    Args:
        device: ``train.device``; on GPUs messages go through NCCL, on CPUs through gloo.
        timeout_s: how long a message is waited for.
    """
    from nas.train.device import choose_device
    from nas.train.ranks import ALONE, CPU, RankError, RankLost, Ranks

    if size() == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    own = choose_device(device, local_rank)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    sys.stderr = sys.__stderr__  # from now on the first one to fail speaks: see one_voice
    if rank > 0:
        warnings.showwarning = lambda *_: None  # rank 0 says it
    timeout = timedelta(seconds=timeout_s)
    backend = "nccl" if own.type == "cuda" else "gloo"
    try:
        store, rank, number = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun may keep its store over a restart, with the addresses of the processes before it.
        store = dist.PrefixStore(meet(store, rank, number, timeout_s), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=number, timeout=timeout)
    except RuntimeError as error:
        place, said = os.environ.get("MASTER_ADDR"), " ".join(str(error).split())[:160]
        rule = f"the other processes were not found there ({said})"
        raise RankLost("MASTER_ADDR", place, rule, "start all with the same address and number of processes") from error
    failed = True
    try:
        yield Ranks(rank, number, local_rank, own if backend == "nccl" else CPU)
        failed = False
    except (NasError, OSError) as error:
        if not _first_to_fail(store):
            sys.exit(1)
        if isinstance(error, OSError):
            remedy = "make room, and start the same command again"
            raise RankError(f"rank {rank}", error.filename, error.strerror or str(error), remedy) from error
        error.args = (f"rank {rank}: {error}",)
        raise
    finally:
        if failed:
            _first_to_fail(store)  # where it is another kind of error its traceback speaks, and nobody else
        if not failed or backend == "gloo":  # NCCL would wait for the others
            dist.destroy_process_group()


def meet(store: Store, rank: int, number: int, timeout_s: float) -> str:
    """A name for this start that all processes have confirmed.

    Rank 0 invites under a name of its own, the others answer with theirs, rank 0 lists the answers. An invitation that
    a start before this one has left has no answer of this process in its list, and is passed over. How often torchrun
    has restarted its processes would not do for a name: on several machines the counts differ.

    Raises:
        RuntimeError: the others did not come in time.
    """
    own, end = uuid.uuid4().hex, time.monotonic() + timeout_s
    if rank == 0:
        answers = [f"nas/{own}/{other}" for other in range(1, number)]
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
    except RuntimeError:  # it was kept by a process that is gone: nobody knows, so everybody speaks
        return True


def torchrun_command(module: str, words: Sequence[str]) -> str:
    """The command line that torchrun was started with, as far as its processes know: three dots for its options."""
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    nodes = [] if machines == "1" else [f"--nnodes={machines}"]
    return f"torchrun {shlex.join([*nodes, f'--nproc-per-node={local_size()}'])} ... -m {module} {shlex.join(words)}"
