"""What the verbs share: running under Hydra, and one line instead of a traceback for what a user can mend."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nas.errors import NasError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_verb(verb: str, job: Callable[[DictConfig, Path], None]) -> None:
    """Run ``job(config, folder)`` for each config that the command line composes with ``conf/<verb>.yaml``.

    A user's error ends the process with status 1 and one line on standard error, SIGINT and SIGTERM with status
    130 and 143; folders that are empty then, because no run began in them, go away again.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))

    # Imported now, when a Ctrl-C no longer ends in a traceback.
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from nas.config import conf_folder, explain, explain_flags, register

    # Hydra prints exceptions in its own way unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register()
    began = False

    def guarded(config: DictConfig) -> None:
        nonlocal began
        began = True
        folder = Path(HydraConfig.get().runtime.output_dir)
        warnings.showwarning = lambda message, *_: print(f"nas-{verb}: {message}", file=sys.stderr)
        # TensorBoard's thread hands a full disk on to the main thread, which tells of it.
        threading.excepthook = lambda args: isinstance(args.exc_value, OSError) or threading.__excepthook__(args)
        try:
            job(config, folder)
        except NasError as error:
            end(str(error))
        except OmegaConfBaseException as error:
            end(explain(error, sys.argv[1:]))
        except OSError as error:
            end(_explain_system(error, folder))
        finally:
            _remove_empty(folder)

    def end(message: str) -> NoReturn:
        print(f"nas-{verb}: {message}", file=sys.stderr)
        sys.exit(1)

    if wrong := explain_flags(sys.argv[1:]):
        end(wrong)
    try:
        hydra.main(version_base="1.3", config_path=conf_folder(), config_name=verb)(guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        end(explain(error, sys.argv[1:]))
    except OSError as error:  # Hydra makes the folder
        end(_explain_system(error, Path("outputs")))
    except ValueError as error:
        if began:
            raise  # a bug, ours or that of a user's own network: its traceback helps
        end(explain(error, sys.argv[1:]))


def same_command(run: str) -> str:
    """The command line that this process was started with, for the run of that name."""
    name = Path(sys.argv[0]).name
    words = [word for word in sys.argv[1:] if not word.startswith("run=")]
    return shlex.join([name if shutil.which(name) else sys.argv[0], *words, f"run={run}"])


def _explain_system(error: OSError, folder: Path) -> str:
    rule = f"{error.filename or folder}: {error.strerror or error}"
    return f"{rule}; make room or take another folder, and start the same command again"


def _remove_empty(folder: Path) -> None:
    """Remove ``folder`` and those above it, up to the current one, as far as they are empty."""
    for place in (folder, *folder.parents):
        if place == Path.cwd():
            break
        with suppress(OSError):  # it is not empty
            place.rmdir()
