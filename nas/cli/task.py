"""One run of a verb: in this process, or in one that a launcher has started for it, perhaps on another machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from nas.cli.blame import users_frames, users_own
from nas.errors import NasError
from nas.signals import STOPS, on_stop

if TYPE_CHECKING:
    from omegaconf import DictConfig

    Job = Callable[[DictConfig, Path], dict[str, Any]]

SIGPIPE = 13
"""Its number; Windows has no such signal."""

OUTPUT = "output.log"
"""In the folder of a run beside others: what it prints."""

_stopped: list[int] = []
"""Signals that have stopped this worker: it begins no further run."""
_watched: list[int] = []
"""The process that has started this worker, once a thread watches whether it still runs."""


class Task:
    """What Hydra calls for each config. Launchers pickle it for their workers, with the command line in it.

    Args:
        verb: ``train`` of ``nas-train``.
        job: what it does; it returns the figures that a sweep's table shows.

    Attributes:
        began: whether a job began in this process.
        stop: number of the signal that has stopped the sweep, 0 if none has; no run begins then.
    """

    def __init__(self, verb: str, job: Job) -> None:
        self.verb, self.job, self.words = verb, job, list(sys.argv)
        self.began, self.in_worker, self.stop = False, False, 0
        self.launched_by = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "in_worker": True}

    def __call__(self, config: DictConfig) -> dict[str, Any] | None:
        """Run the job with one config.

        Returns:
            What the job returns; None if it was stopped.
        """
        from hydra.core.hydra_config import HydraConfig

        if self.stop or _stopped:
            return None
        self.began = True
        folder = Path(HydraConfig.get().runtime.output_dir)
        warnings.showwarning = lambda message, *_: print(f"nas-{self.verb}: {message}", file=sys.stderr)
        if self.in_worker:
            self._settle()
        try:
            with self._output(folder):
                return self.job(config, folder)
        except BrokenPipeError:
            end_closed_pipe()
        except SystemExit as stop:
            self._stopped(stop)
            return None
        finally:
            remove_empty(folder)
            if self.in_worker:
                on_stop(_note)

    @contextmanager
    def _output(self, folder: Path) -> Iterator[None]:
        """Let a run print into a file in its folder where several would share a terminal; submitit has its own."""
        path = folder / OUTPUT
        if not self.in_worker or "SUBMITIT_EXECUTOR" in os.environ:
            yield
            return
        with open(path, "a", buffering=1) as file, redirect_stdout(file):
            try:
                yield
            finally:
                if not file.tell():
                    path.unlink()

    def _settle(self) -> None:
        """Make a launcher's worker behave like a process that was started by hand."""
        sys.argv = list(self.words)
        on_stop(_leave)
        # Jobs of submitit outlive the process that has submitted them, on purpose.
        if not _watched and "SUBMITIT_EXECUTOR" not in os.environ:
            _watched.append(self.launched_by)
            threading.Thread(target=_stop_without_parent, daemon=True).start()

    def _stopped(self, stop: SystemExit) -> None:
        """End a run that was stopped and has saved. A worker returns as after a run, so that the others can save."""
        by_signal = stop.code in [128 + number for number in STOPS]
        # Slurm may requeue a job that it has stopped: such a job must not have a result yet.
        if not self.in_worker or not by_signal or os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            raise stop
        _note(int(str(stop.code)) - 128)


def end_closed_pipe() -> NoReturn:
    """End a process silently whose output nobody reads any more, as in ``| head``."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  what is left in the pipe's buffer has nowhere to go
    sys.exit(128 + SIGPIPE)


def end(verb: str, message: str) -> NoReturn:
    """End the process with one line and status 1."""
    print(f"nas-{verb}: {message}", file=sys.stderr)
    sys.exit(1)


def line_for(error: BaseException | None, folder: Path, words: Sequence[str]) -> str | None:
    """One line for an error that the user can mend; None for a bug of ours.

    Where a function of the user's own failed, its frames follow.

    Args:
        error: what was raised.
        folder: where the run writes to.
        words: of the command line.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from nas.config import explain

    match error:
        case NasError():
            return "\n".join([str(error), *users_frames(error.__cause__)])
        case HydraException() | OmegaConfBaseException() | YAMLError():
            return explain(error, words)
        case OSError() if not users_frames(error):  # a file of the user's own function is not the run's
            rule = f"{error.filename or folder}: {error.strerror or error}"
            return f"{rule}; make room or take another folder, and start the same command again"
        case MemoryError():
            return "memory: there is not enough; raise the limit (ulimit -v), or take a smaller data set or space"
        case ImportError() if "failed to map" in str(error):
            return f"memory: there is not enough to load the libraries ({error}); raise the limit (ulimit -v)"
    return users_own(error)


def remove_empty(folder: Path) -> None:
    """Remove ``folder`` and those above it, up to the current one, as far as they are empty."""
    for place in (folder, *folder.parents):
        if place == Path.cwd():
            break
        with suppress(OSError):  # it is not empty
            place.rmdir()


def _leave(number: int, _: FrameType | None) -> None:
    on_stop(_note)  # a second one must not break into the way out
    sys.exit(128 + number)


def _note(number: int, _: FrameType | None = None) -> None:
    _stopped.append(number)
    if _watched and os.getppid() not in _watched:
        os._exit(128 + number)  # there is no process to return to


def _stop_without_parent() -> None:
    """Stop the run of this worker when the process that has started it was killed: the next one goes on with it."""
    while os.getppid() in _watched:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
