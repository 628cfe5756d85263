"""Fresh processes for tests: forked from the test's own, which has torch imported, so that one costs milliseconds.

Nothing here starts threads, and torch computes on one; only then is a fork of a process that has torch loaded safe.
"""

import importlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch

FORK = multiprocessing.get_context("fork")
TIMEOUT_S = 300
"""Longer than any of them takes on a machine that is busy with other work."""
_numbers = itertools.count()


class Started:
    """``work(*args)`` in a process of its own; what it prints goes to files. Reads like a ``subprocess.Popen``.

    Args:
        work: exits with 0 when it returns, with 1 after an exception, with the status of a ``SystemExit``.
        folder: where it starts.
        environment: variables to set; None unsets one.
        injected: a context in which it works, a fault for example.
    """

    def __init__(
        self,
        work: Callable,
        *args: object,
        folder: Path,
        environment: dict[str, str | None] | None = None,
        injected: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        _preload()
        self._files = [folder.parent / f"{folder.name}-{next(_numbers)}.{name}" for name in ("out", "err")]
        for path in self._files:
            path.touch()
        self._process = FORK.Process(target=self._run, args=(work, args, folder, environment or {}, injected))
        self._process.start()
        self.pid = self._process.pid

    def _run(self, work, args, folder, environment, injected) -> None:
        os.chdir(folder)
        for number, path in enumerate(self._files, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        warnings.resetwarnings()
        warnings.simplefilter("ignore", ResourceWarning)
        torch.set_num_threads(1)
        with injected():
            work(*args)

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for the signal that killed it; None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def out(self) -> str:
        """What it has printed until now."""
        return self._files[0].read_text()

    def err(self) -> str:
        """What it has written to standard error until now."""
        return self._files[1].read_text()

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, and wait for that."""
        self.send_signal(signal.SIGKILL)
        self._process.join()

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """Its exit status, once it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(str(self._process), timeout, self.out(), self.err())
        return self.returncode

    def communicate(self, timeout: float = TIMEOUT_S) -> tuple[str, str]:
        """Wait for its end; output and errors."""
        self.wait(timeout)
        return self.out(), self.err()

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; status, output and errors."""
        return (self.wait(), self.out(), self.err())


@cache
def _preload() -> None:
    """Import here, once, what the verbs import when they work, so that no forked process does."""
    for module in ("hydra", "tensorboard", "nas.train", "nas.search", "nas.rank", "nas.export"):
        importlib.import_module(module)


def verb(name: str, *words: str, **how: object) -> Started:
    """``nas-NAME words`` in a process of its own; ``how`` as of :class:`Started`."""
    return Started(_verb, name, words, **how)


def _verb(name: str, words: tuple[str, ...]) -> None:
    sys.argv = [f"nas-{name}", *words]
    importlib.import_module(f"nas.cli.{name}").main()


def torchrun(*words: str, options: tuple[str, ...] = ("--standalone", "--nproc-per-node=2"), **how: object) -> Started:
    """``torchrun OPTIONS -m nas.cli.train words``: torch's own agent, whose workers are forked instead of started.

    Args:
        words: of ``nas-train``.
        options: of torchrun.
        how: as of :class:`Started`.
    """
    return Started(_torchrun, words, options, **how)


def _torchrun(words: tuple[str, ...], options: tuple[str, ...]) -> None:
    from torch.distributed import run

    configured = run.config_from_args

    def forking(args):
        config, *_ = configured(args)
        config.start_method = "fork"
        return config, _worker, [words]

    run.config_from_args = forking
    run.main([*options, "-m", "nas.cli.train", *words])


def _worker(words: tuple[str, ...]) -> None:
    # What the agent has set for itself, and a process of its own would not have.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        _verb("train", words)
    except Exception:  # noqa: BLE001
        # torch's agent would print what leaves a function of its own once more.
        traceback.print_exc()
        sys.exit(1)


def together(number: int, work: Callable, folder: Path, *args: object) -> list:
    """``work(world, *args)`` in ``number`` processes that talk through gloo; what each has returned.

    What is returned has to be tensors and plain data. An error in a process is an error here.
    """
    folder = Path(folder) / "ranks"
    folder.mkdir(exist_ok=True, parents=True)
    for old in folder.iterdir():
        old.unlink()
    started = [Started(_rank, rank, number, work, folder, args, folder=folder.parent) for rank in range(number)]
    try:
        for process in started:
            process.wait()
    finally:
        for process in started:
            process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("*.error"))]
    assert not errors, "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(number)]


def _rank(rank: int, number: int, work: Callable, folder: Path, args: tuple) -> None:
    from datetime import timedelta

    import torch.distributed as dist

    from nas.dist import World

    try:
        store = dist.FileStore(str(folder / "store"), number)
        wait = timedelta(seconds=TIMEOUT_S)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=number, timeout=wait)
        torch.save(work(World(rank, number, rank), *args), folder / f"{rank}.pt")
        if dist.is_initialized():  # the work may have left the others
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:  # whatever it is, the test has to see it
        (folder / f"{rank}.error").write_text(f"rank {rank}: {traceback.format_exc()}")
        raise
