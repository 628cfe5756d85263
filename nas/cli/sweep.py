"""A sweep (``-m``): which runs it has, that one that fails does not end the others, and a table of them at the end.

Hydra's launcher starts the runs: one after the other in this process, in processes beside it, or as jobs of a cluster.
So that it does not matter which, each run leaves what is said of it in its own folder: ``row.json`` when it has
finished, or ``failed.txt``.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nas.cli.rows import FAILED, ROW, Planned, Watch, first_figure, planned, summarize
from nas.cli.task import Task, end, line_for
from nas.cli.torchrun import same_command
from nas.config import explain
from nas.files import write_whole
from nas.signals import on_stop

if TYPE_CHECKING:
    from omegaconf import DictConfig

BESIDE = ("joblib", "submitit_local")
"""Launchers whose workers are processes of this machine, started by the launching one."""
OURS = ("basic", "nas_optuna")
"""Choices of hydra/sweeper that go on after a failed run."""


@dataclass
class Plan:
    """The sweep of this process, filled in by the callback, which Hydra makes by itself.

    Attributes:
        folder: of the sweep.
        run: what ``run=`` must say to go on with it; empty where there is no such setting.
        launcher: Hydra's name of it.
        runs: in the order in which they are started; empty if this process has no sweep.
        watch: says which of them have ended.
        note: what is printed below the table.
    """

    folder: Path = Path()
    run: str = ""
    launcher: str = ""
    runs: list[Planned] = field(default_factory=list)
    watch: Watch = field(default_factory=lambda: Watch("", 0))
    note: str = ""


PLAN = Plan()


class Sweep(Callback):
    """``hydra.callbacks.sweep``: plans in the process that launches, takes notes in the one that carries out a run."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Find the folders of all runs; end the process if two would share one, or one cannot be composed."""
        verb, chosen = _verb(config), config.hydra.runtime.choices
        try:
            runs = _grid(config) if chosen["hydra/sweeper"] == "basic" else []
        except (HydraException, OmegaConfBaseException, YAMLError) as error:  # Hydra would make a warning of it
            end(verb, explain(error, sys.argv[1:]))
        folders = [run.folder for run in runs]
        if twice := [folder for folder in folders if folders.count(folder) > 1]:
            rule = f"is the folder of {folders.count(twice[0])} runs of the sweep"
            end(verb, f"{Path(twice[0]).name}: {rule}; write each value once, and hydra.sweep.subdir not at all")
        PLAN.folder, PLAN.run = Path(config.hydra.sweep.dir).absolute(), config.get("run", "")
        PLAN.launcher, PLAN.runs, PLAN.note = chosen["hydra/launcher"], runs, ""
        for folder in folders:
            with suppress(OSError):  # its run will say so
                Path(folder, FAILED).unlink(missing_ok=True)
        PLAN.watch = Watch(config.hydra.job.name, len(runs))
        PLAN.watch.add(runs)
        if PLAN.launcher != "basic":
            PLAN.watch.look_on()
        if PLAN.launcher == "submitit_local":
            _block_ctrl_c()

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Forget what was said of a run that begins again."""
        self._began = time.perf_counter()
        with suppress(OSError):
            Path(config.hydra.runtime.output_dir, ROW).unlink(missing_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note in a run's folder what came out, or why it failed, and let the others go on.

        Hydra, and a sweeper that optimises, get the first figure of a finished run, and None of any other.
        """
        folder, result = Path(config.hydra.runtime.output_dir), job_return._return_value
        failed = job_return.status != JobStatus.COMPLETED
        line = line_for(result, folder, sys.argv[1:]) if failed else None
        alone = config.hydra.mode != RunMode.MULTIRUN
        if failed and alone and line:
            end(_verb(config), line)
        if failed and (alone or config.hydra.runtime.choices["hydra/sweeper"] not in OURS):
            return  # Hydra, or the sweeper, raises it
        job_return.status = JobStatus.COMPLETED
        job_return.return_value = None if failed or result is None else first_figure(result)
        if alone:
            return
        if failed:
            _note_failure(folder, result, line)
        elif result is not None:  # else it was stopped, and is unfinished
            seconds = round(time.perf_counter() - self._began, 3)
            write_whole(folder / ROW, json.dumps({**result, "seconds": seconds}) + "\n")
        PLAN.watch.look()


def _verb(config: DictConfig) -> str:
    return str(config.hydra.job.name).removeprefix("nas-")


def _note_failure(folder: Path, error: Exception, line: str | None) -> None:
    reason, _, trace = (line or "").partition("\n")
    if line is None:  # a bug of ours
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        trace = "".join(traceback.format_exception(error))
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FAILED, f"{reason}\n" + (f"\n{trace.rstrip()}\n" if trace else ""))


def _grid(config: DictConfig) -> list[Planned]:
    """The runs that Hydra's own sweeper makes of the command line."""
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    choices = []
    for word in parser.parse_overrides([*words, *config.hydra.overrides.task]):
        if word.is_interval_sweep():
            rule = "has no values to go through one by one; add hydra/sweeper=nas_optuna, or write choice(...)"
            end(_verb(config), f"{word.input_line}: {rule}")
        values = word.sweep_string_iterator() if word.is_sweep_override() else [word.get_value_element_as_str()]
        choices.append([f"{word.get_key_element()}={value}" for value in values])
    runs = list(itertools.product(*choices))
    return planned(config, runs, set.intersection(*map(set, runs)))


@contextmanager
def summed_up(task: Task) -> Iterator[None]:
    """Print the table of a sweep's runs, however the sweep ends; nothing if there is no sweep."""
    PLAN.runs, lost = [], ""
    try:
        yield
    except RuntimeError as error:  # of joblib or submitit: errors of runs do not come here
        if not PLAN.runs:
            raise
        lost = " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2])
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code > 128:
            task.stop = stop.code - 128
        raise
    finally:
        _unblock_ctrl_c()
        if PLAN.runs:
            PLAN.watch.close()
            successful = summarize(PLAN.runs, PLAN.folder, PLAN.note)
            if task.stop:
                name = signal.Signals(task.stop).name
                cluster = PLAN.launcher == "submitit_slurm"
                jobs = f" (jobs in the queue go on; scancel --name=nas-{task.verb} ends them)" if cluster else ""
                print(f"stopped by {name}{jobs}; to go on: {same_command(PLAN.run)}", flush=True)
    if not PLAN.runs:
        return
    if task.stop:
        sys.exit(128 + task.stop)
    if lost:
        end(task.verb, f"hydra/launcher={PLAN.launcher}: {lost}; start the same command again to go on")
    if not successful:
        sys.exit(1)


def stop_sweep(task: Task, number: int) -> None:
    """End the process on a signal.

    Runs in processes beside it are asked to save first; a second signal ends it at once. Jobs of a cluster go on.
    """
    on_stop(lambda number, _: sys.exit(128 + number))
    if not PLAN.runs or PLAN.launcher not in BESIDE:
        sys.exit(128 + number)
    task.stop = number  # the launcher comes back when all runs have, and begins no further one
    for process in _children():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def _block_ctrl_c() -> None:
    """Let a terminal's Ctrl-C, which goes to all processes there, reach this process alone.

    submitit's own processes would die of it, and take runs along that are about to save. Processes begin with the
    signals blocked that their parent's thread has blocked; here another thread takes it for this process.
    """
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _unblock_ctrl_c() -> None:
    """Undo :func:`_block_ctrl_c`."""
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _children() -> set[int]:
    """Processes that this one has started; elsewhere than on Linux those of joblib alone."""
    found = {child.pid for child in multiprocessing.active_children() if child.pid}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = place.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.add(int(place.parent.name))
    return found
