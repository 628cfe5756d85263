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
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from nas.cli.rows import FAILED, ROW, Planned, summarize
from nas.cli.task import Task, end, line_for
from nas.cli.torchrun import same_command
from nas.config import explain
from nas.files import write_whole
from nas.signals import on_stop

if TYPE_CHECKING:
    from omegaconf import DictConfig

BESIDE = ("joblib", "submitit_local")
"""Launchers whose workers are processes of this machine, started by the launching one."""


@dataclass
class Plan:
    """The sweep of this process, filled in by the callback, which Hydra makes by itself.

    Attributes:
        folder: of the sweep.
        run: what ``run=`` must say to go on with it; empty where there is no such setting.
        launcher: Hydra's name of it.
        runs: in the order in which they are started; empty if this process has no sweep.
    """

    folder: Path = Path()
    run: str = ""
    launcher: str = ""
    runs: tuple[Planned, ...] = ()


PLAN = Plan()


class Sweep(Callback):
    """``hydra.callbacks.sweep``: plans in the process that launches, takes notes in the one that carries out a run."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Find the folders of all runs; end the process if two would share one, or one cannot be composed."""
        verb = _verb(config)
        try:
            runs = _planned(config)
        except (HydraException, OmegaConfBaseException) as error:  # Hydra would make a warning of it
            end(verb, explain(error, sys.argv[1:]))
        folders = [run.folder for run in runs]
        if twice := [folder for folder in folders if folders.count(folder) > 1]:
            rule = f"is the folder of {folders.count(twice[0])} runs of the sweep"
            end(verb, f"{Path(twice[0]).name}: {rule}; write each value once, and hydra.sweep.subdir not at all")
        PLAN.folder, PLAN.run = Path(config.hydra.sweep.dir).absolute(), config.get("run", "")
        PLAN.launcher, PLAN.runs = config.hydra.runtime.choices["hydra/launcher"], tuple(runs)
        for folder in folders:
            with suppress(OSError):  # its run will say so
                Path(folder, FAILED).unlink(missing_ok=True)
        if PLAN.launcher == "submitit_local":
            _block_ctrl_c()

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Forget what was said of a run that begins again."""
        with suppress(OSError):
            Path(config.hydra.runtime.output_dir, ROW).unlink(missing_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note in a run's folder what came out, or why it failed, and let the others go on."""
        folder, result = Path(config.hydra.runtime.output_dir), job_return._return_value
        line = line_for(result, folder, sys.argv[1:]) if job_return.status != JobStatus.COMPLETED else None
        if config.hydra.mode != RunMode.MULTIRUN:
            if line:
                end(_verb(config), line)
        elif job_return.status != JobStatus.COMPLETED:
            _note_failure(config.hydra.job.name, folder, result, line)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        elif result is not None:  # else it was stopped, and is unfinished
            write_whole(folder / ROW, json.dumps(result) + "\n")


def _verb(config: DictConfig) -> str:
    return str(config.hydra.job.name).removeprefix("nas-")


def _note_failure(job: str, folder: Path, error: Exception, line: str | None) -> None:
    reason, trace = line, ""
    if reason is None:  # a bug, ours or that of a user's own network
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        trace = "\n" + "".join(traceback.format_exception(error))
    more = f" (in {folder / FAILED})" if trace else ""
    print(f"{job}: {folder.name}: {reason}{more}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FAILED, f"{reason}\n{trace}")


def _planned(config: DictConfig) -> list[Planned]:
    """The runs that Hydra's sweeper makes of the command line, composed as its launchers compose them."""
    loader = GlobalHydra.instance().config_loader()
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [f"{override.get_key_element()}={override.get_value_element_as_str()}"]
        for override in OverridesParser.create(loader).parse_overrides([*words, *config.hydra.overrides.task])
    ]
    _ = config.hydra.sweep.dir  # resolved once, here: it may have the time in it, which the runs then have in common
    found, before = [], HydraConfig.instance().cfg
    for number, given in enumerate(itertools.product(*choices)):
        one = loader.load_sweep_config(config, list(given))
        with open_dict(one):
            one.hydra.job.id = one.hydra.job.num = number
        HydraConfig.instance().set_config(one)  # for ${hydra:...}
        try:
            folder = os.path.abspath(os.path.join(one.hydra.sweep.dir, one.hydra.sweep.subdir))
        finally:
            HydraConfig.instance().cfg = before
        found.append((folder, list(one.hydra.overrides.task)))
    common = set.intersection(*(set(given) for _, given in found))
    names = [",".join(word for word in given if word not in common) for _, given in found]
    return [
        Planned(name or Path(folder).name, folder, given) for name, (folder, given) in zip(names, found, strict=True)
    ]


@contextmanager
def summed_up(task: Task) -> Iterator[None]:
    """Print the table of a sweep's runs, however the sweep ends; nothing if there is no sweep."""
    PLAN.runs, lost = (), ""
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
            successful = summarize(PLAN.runs, PLAN.folder)
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
