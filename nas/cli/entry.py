"""What the verbs share: running under Hydra, and one line instead of a traceback for what a user can mend."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nas.config import conf_folder, explain, register
from nas.errors import NasError


def run_verb(verb: str, job: Callable[[DictConfig, Path], None]) -> None:
    """Run ``job(config, folder)`` for each config that the command line composes with ``conf/<verb>.yaml``.

    A user's error ends the process with status 1 and one line on standard error; a folder that only this call
    has made, and that is still empty, goes away again.
    """
    # Hydra prints exceptions in its own way unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register()

    def guarded(config: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            job(config, folder)
        except (NasError, OSError, HydraException, OmegaConfBaseException) as error:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
            _end(verb, error)

    try:
        hydra.main(version_base="1.3", config_path=conf_folder(), config_name=verb)(guarded)()
    except (NasError, HydraException, OmegaConfBaseException) as error:
        _end(verb, error)
    except KeyboardInterrupt:
        sys.exit(130)


def _end(verb: str, error: Exception) -> None:
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        message = explain(error, sys.argv[1:])
    elif isinstance(error, OSError):
        message = f"{error.filename or 'system'}: {error.strerror or error}; mend it and start the same command again"
    else:
        message = str(error)
    print(f"nas-{verb}: {message}", file=sys.stderr)
    sys.exit(1)
