"""``torchrun -m nas.cli.train``: what several processes do with one command line."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.task import end

if TYPE_CHECKING:
    from nas.dist import World
    from nas.settings import TrainRunSettings

GRACE_S = 5.0
"""Seconds that rank 0 has to refuse a command line for all processes, before another rank ends and torchrun with it."""


def world_size() -> int:
    """The number of processes, which torchrun has put into the environment; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_world_size() -> int:
    """How many of the processes are on this machine, as far as this process knows."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if world_size() > 1 else 1


def is_main() -> bool:
    """Whether this process is the one that prints: alone, or rank 0."""
    return world_size() == 1 or int(os.environ["RANK"]) == 0


@contextmanager
def refused_once(words: Sequence[str]) -> Iterator[None]:
    """Let rank 0 alone say what is wrong with a command line that all processes have got.

    The standard error of the other ranks is held back until they join each other (:func:`joined_world`). A rank that
    ends before that waits for torchrun, which ends all processes as soon as rank 0 has ended. If torchrun does not, the
    others have no such trouble, and the rank prints what it held back.
    """
    if world_size() == 1:
        yield
        return
    held_back = io.StringIO()
    with nullcontext() if is_main() else redirect_stderr(held_back):
        try:
            _check_command(words)
            yield
        except SystemExit:
            if held_back.getvalue():
                time.sleep(GRACE_S)
                print(held_back.getvalue(), end="", file=sys.__stderr__)
            raise


def _check_command(words: Sequence[str]) -> None:
    """Refuse a sweep, and a run whose folder would have another name in every process and after every restart."""
    from nas.config import is_sweep

    if is_sweep(words):
        rule = "starts several runs, but under torchrun all processes train one"
        end("train", f"flag=-m: {rule}; write a loop around torchrun, or leave torchrun out")
    if not any(word.startswith(("run=", "hydra.run.dir=")) for word in words):
        rule = "must be given under torchrun: the default is the time, another one in every process"
        end("train", f"run=(none): {rule}; write run=NAME")


@contextmanager
def joined_world(settings: TrainRunSettings) -> Iterator[World]:
    """The world of this process: that of torchrun, joined for as long as the block lasts, or the process alone."""
    from nas.dist import SINGLE

    if world_size() == 1:
        yield SINGLE
        return
    from nas.dist.join import joined

    sys.stderr = sys.__stderr__  # from now on the rank that fails first speaks, not rank 0: see refused_once
    if not is_main():
        warnings.showwarning = lambda *_: None  # rank 0 shows them
    with joined(settings.train.device, settings.dist.timeout_s) as world:
        yield world


def torchrun_command(module: str, words: Sequence[str]) -> str:
    """The command line of torchrun, as far as its processes know it: three dots stand for its options."""
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    nodes = [] if machines == "1" else [f"--nnodes={machines}"]
    options = shlex.join([*nodes, f"--nproc-per-node={local_world_size()}"])
    return f"torchrun {options} ... -m {module} {shlex.join(words)}"


def same_command(run: str) -> str:
    """The command line that this process was started with, for the run of that name; as it was without a name."""
    if world_size() > 1:
        return torchrun_command("nas.cli.train", sys.argv[1:])
    program = Path(sys.argv[0])
    command = [program.name if shutil.which(program.name) else sys.argv[0]]
    if program.parent == Path(__file__).parent:  # python -m nas.cli.search
        command = [Path(sys.executable).name, "-m", f"nas.cli.{program.stem}"]
    words = [word for word in sys.argv[1:] if not word.startswith("run=")]
    return shlex.join([*command, *words, *([f"run={run}"] if run else [])])
