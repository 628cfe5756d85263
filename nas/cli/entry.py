"""What all commands share: running under Hydra, and one line instead of a traceback for a user's mistake."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.stops import on_stop
from nas.cli.task import Failed, Task, end, end_closed_pipe, explain_system

if TYPE_CHECKING:
    from rich.console import Console

    from nas.cli.task import Job

_HYDRAS = (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, AssertionError, RecursionError)
"""What Hydra raises, besides errors of its own, on words that it did not expect: gate=[1] for example."""


def run_verb(verb: str, job: Job) -> None:
    """Run ``job(config, folder)`` for each config that the command line composes with ``conf/<verb>.yaml``.

    A user's error ends the process with status 1 and one line on standard error; SIGINT and SIGTERM end it with
    status 130 and 143. Folders that are then empty, because no run began in them, are removed.
    :class:`nas.cli.task.Task` carries out one run, :mod:`nas.cli.sweep` looks after several.
    """
    on_stop(lambda number, _: sys.exit(128 + number))

    # Imported now, when a Ctrl-C no longer ends in a traceback.
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from nas.cli.sweep import stop_sweep, summed_up
    from nas.config import conf_folder, explain, explain_flags, register

    task = Task(verb, job)
    on_stop(lambda number, _: stop_sweep(task, number))
    # Hydra prints exceptions in its own way unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    words = sys.argv[1:]
    register(words)
    if wrong := explain_flags(words):
        end(verb, wrong)
    try:
        with summed_up(task):
            hydra.main(version_base="1.3", config_path=conf_folder(), config_name=verb)(task)()
    except Failed as error:  # where somebody has switched the sweep's table off
        end(verb, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        end(verb, explain(error, words))
    except BrokenPipeError:
        end_closed_pipe()
    except OSError as error:  # Hydra makes the folder
        end(verb, explain_system(error, Path("outputs")))
    except _HYDRAS as error:
        if task.began:
            raise  # a bug, ours or that of a user's own network: its traceback helps
        end(verb, explain(error, words))


def result_console(progress: bool, is_main: bool = True) -> Console:
    """Where a verb prints what it found.

    Args:
        progress: whether the run shows its progress. Without it a run of a sweep prints nothing at all, because its
            result stands in the sweep's table.
        is_main: False for a process that leaves printing to another one.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from nas.console import new_console

    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    return new_console(quiet=not is_main or (in_sweep and not progress))


def same_command(run: str) -> str:
    """The command line that this process was started with, for the run of that name; as it was without a name."""
    name = Path(sys.argv[0]).name
    words = [word for word in sys.argv[1:] if not word.startswith("run=")]
    return shlex.join([name if shutil.which(name) else sys.argv[0], *words, *([f"run={run}"] if run else [])])
