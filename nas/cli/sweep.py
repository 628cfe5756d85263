"""A sweep (``-m``): which runs it has, that one that fails does not end the others, and that a stop ends them all.

Hydra's launcher starts the runs: one after the other in this process, in processes beside it, or as jobs of a cluster.
They are told of in files alone, so that it does not matter which: a run leaves its report in its folder, or, if it
failed, the reason in ``failed.txt``. At the end :mod:`nas.cli.rows` makes a table of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from nas.cli.rows import FAILED, Planned, summary
from nas.cli.task import Failed, Task, end, on_stop
from nas.config import explain
from nas.files import write_whole

if TYPE_CHECKING:
    from omegaconf import DictConfig

BESIDE = ("joblib", "submitit_local")
"""Launchers whose workers are processes of this machine, started by the launching one."""


@dataclass
class Plan:
    """The sweep of this process, filled in by the callback, which Hydra makes by itself.

    Attributes:
        folder: of the sweep.
        run: what ``run=`` must say to go on with it.
        launcher: Hydra's name of it.
        runs: in the order in which they are started; empty if this process has no sweep, or none with a table.
    """

    folder: Path = Path()
    run: str = ""
    launcher: str = ""
    runs: tuple[Planned, ...] = ()


PLAN = Plan()


class Sweep(Callback):
    """``hydra.callbacks.sweep``: plans in the launching process, and notes failures in the one that runs a run."""

    def __init__(self) -> None:
        self.planned = False

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Find the folders of all runs; end the process if two would share one, or one cannot be composed."""
        verb = config.hydra.job.name.removeprefix("nas-")
        try:
            runs = _runs(config)
        except (HydraException, OmegaConfBaseException) as error:  # Hydra would make a warning of it
            end(verb, explain(error, sys.argv[1:]))
        folders = [run.folder for run in runs]
        if twice := [run for run in runs if folders.count(run.folder) > 1]:
            rule = f"is the folder of {folders.count(twice[0].folder)} runs of the sweep"
            end(verb, f"{Path(twice[0].folder).name}: {rule}; write each value once, and hydra.sweep.subdir not at all")
        PLAN.folder, PLAN.run = Path(config.hydra.sweep.dir).absolute(), config.run
        PLAN.launcher, PLAN.runs = config.hydra.runtime.choices["hydra/launcher"], tuple(runs)
        for folder in folders:
            with suppress(OSError):  # its run will tell
                Path(folder, FAILED).unlink(missing_ok=True)
        if PLAN.launcher == "submitit_local":
            _keep_ctrl_c_here()
        self.planned = True

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note why a run failed, beside what it has written, and let the others go on."""
        place = Path(config.hydra.runtime.output_dir, FAILED)
        error = job_return._return_value
        if job_return.status == JobStatus.COMPLETED:
            place.unlink(missing_ok=True)
        elif self.planned:
            reason, trace = str(error), ""
            if not isinstance(error, Failed):  # a bug, ours or that of a user's own network
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                trace = "\n" + "".join(traceback.format_exception(error))
            more = f" (in {place})" if trace else ""
            print(f"{config.hydra.job.name}: {place.parent.name}: {reason}{more}", file=sys.stderr, flush=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, f"{reason}\n{trace}")
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None


def _runs(config: DictConfig) -> list[Planned]:
    """The runs that Hydra's own sweeper makes of the command line, composed as its launchers compose them."""
    loader = GlobalHydra.instance().config_loader()
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(loader).parse_overrides([*words, *config.hydra.overrides.task])
    _ = config.hydra.sweep.dir  # resolved once, here: it may have the time in it, which the runs then have in common
    found, before = [], HydraConfig.instance().cfg
    for number, given in enumerate(BasicSweeper.split_arguments(overrides, None)[0]):
        one = loader.load_sweep_config(config, given)
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
def summed_up(task: Task, same_command: Callable[[str], str]) -> Iterator[None]:
    """Tell what became of the runs of a sweep, however it ends; nothing if there is none.

    Args:
        task: of the sweep.
        same_command: the command line that goes on with the run of a name.
    """
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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        if PLAN.runs:
            unsuccessful = summary(PLAN.runs, PLAN.folder)
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
    if unsuccessful:
        sys.exit(1)


def stop(task: Task, number: int) -> None:
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


def _keep_ctrl_c_here() -> None:
    """Let a terminal's Ctrl-C, which goes to all processes there, reach this one alone.

    submitit's own processes would die of it, and take runs along that are about to save. Processes begin with the
    signals blocked that their parent's thread has blocked; here another thread takes it for this process.
    """
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def _children() -> set[int]:
    """Processes that this one has started; elsewhere than on Linux those of joblib alone."""
    found = {child.pid for child in multiprocessing.active_children() if child.pid}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = place.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.add(int(place.parent.name))
    return found
