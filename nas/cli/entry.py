"""What all commands share: running under Hydra, and one line instead of a traceback for a user's mistake."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any, NoReturn

import nas
from nas.cli.task import Task, end, end_closed_pipe, line_for
from nas.cli.torchrun import is_main, same_command, world_size
from nas.errors import NasError
from nas.signals import Abandoned, Interrupted, on_stop

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    Job = Callable[[Any, Path, Console], dict[str, Any]]

_HYDRAS = (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, AssertionError, RecursionError)
"""What Hydra raises, besides errors of its own, on words that it did not expect: gate=[1] for example."""


def run_verb(verb: str, schema: type, job: Job) -> None:
    """Run ``job(settings, folder, out)`` for each config that the command line composes with ``conf/<verb>.yaml``.

    A user's error ends the process with status 1 and one line on standard error; SIGINT and SIGTERM end it with
    status 130 and 143. Folders that are then empty, because no run began in them, are removed.
    :class:`nas.cli.task.Task` carries out one run, :mod:`nas.cli.sweep` looks after several.

    Args:
        verb: ``train`` of ``nas-train``.
        schema: the dataclass of its settings.
        job: does the work in its folder, prints to its console, and returns the figures that a sweep's table shows.
    """
    if "--version" in sys.argv[1:]:
        print(versions())
        return
    gc.disable()  # until the work begins: looking for garbage among what is imported takes a tenth of the start
    on_stop(lambda number, _: sys.exit(128 + number))

    # Imported now, when a Ctrl-C no longer ends in a traceback.
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from nas.cli.sweep import stop_sweep, summed_up
    from nas.config import conf_folder, explain, explain_flags, plain_keys, register

    task = Task(verb, partial(_carry_out, schema, job))
    on_stop(lambda number, _: stop_sweep(task, number))
    # Hydra prints exceptions in its own way unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    words = sys.argv[1:] = list(map(plain_keys, sys.argv[1:]))
    register(words, [verb])
    if wrong := explain_flags(words):
        end(verb, wrong)
    try:
        with summed_up(task):
            hydra.main(version_base="1.3", config_path=conf_folder(), config_name=verb)(task)()
    except BrokenPipeError:
        end_closed_pipe()
    # Errors of a run come here where somebody has switched off nas.cli.sweep.
    except (HydraException, OmegaConfBaseException, OSError, NasError, YAMLError) as error:
        end(verb, str(line_for(error, Path("outputs"), words)))
    except _HYDRAS as error:
        if task.began:
            raise  # a bug: its traceback helps
        end(verb, explain(error, words))


def _carry_out(schema: type, job: Job, config: DictConfig, folder: Path) -> dict[str, Any]:
    """What all jobs have in common before the work begins: settings, threads, memory, a console."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from nas.config import settings_from

    settings: Any = settings_from(config, schema)
    groups = [settings, *filter(is_dataclass, vars(settings).values())]
    said = {name: value for group in groups for name, value in vars(group).items() if name in ("threads", "progress")}

    from nas.console import new_console
    from nas.cost.allocator import keep_freed_memory
    from nas.threads import set_threads

    keep_freed_memory()
    set_threads(said["threads"])
    gc.freeze()
    gc.enable()
    # Without progress a run of a sweep prints nothing at all, because its result stands in the sweep's table.
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    return job(settings, folder, new_console(quiet=not is_main() or (in_sweep and not said.get("progress", True))))


def versions() -> str:
    """The line of ``--version``; torch is not imported for it."""
    from importlib.metadata import version

    return f"gated-nas {nas.__version__}, torch {version('torch')}, python {python_version()}"


@contextmanager
def stoppable(out: Console, run: str, reached: Callable[[], str]) -> Iterator[None]:
    """End the process with one line when work is stopped, which has saved: how far it got, and how to go on."""
    try:
        yield
    except Interrupted as stop:
        end_stopped(out, run, stop, reached())


def end_stopped(out: Console, run: str, stop: Interrupted, reached: str) -> NoReturn:
    """End the process with one line: which signal stopped it, how far it got, and how to go on."""
    saved_before = " from the last checkpoint" if isinstance(stop, Abandoned) else ""
    several = ", the same command" if world_size() > 1 else ""
    out.print(f"{stop}{reached}; to go on{saved_before}{several}: {same_command(run)}")
    sys.exit(128 + stop.signal_number)


def tensorboard(folder: Path) -> str:
    """The line that says how to look at the curves in a folder."""
    return f"TensorBoard: tensorboard --logdir {shlex.quote(str(folder))}"
