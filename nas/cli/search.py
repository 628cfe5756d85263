"""``nas-search``: find good subnetworks of a trained supernet, or good architectures before any training."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import result_console, run_verb, same_command

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Search, or go on searching, in ``folder``; print the front."""
    from nas.config import settings_from
    from nas.settings import SearchRunSettings

    settings = settings_from(config, SearchRunSettings)

    from nas.cost.allocator import keep_freed_memory
    from nas.search import Search, files, front_table, search, summary
    from nas.signals import Interrupted

    keep_freed_memory()
    out = result_console(settings.search.progress)
    run = Search(settings, folder)
    with closing(run.study):
        before = run.study.finished()
        begun = f"going on after {before:,} trials" if before else f"sampler {settings.search.sampler}"
        names = ", ".join(settings.search.objectives)
        if settings.search.progress:
            out.print(f"{run.target.space.name}: {run.target.space.size:,} architectures, {names}; {begun}; {folder}")
        try:
            found = search(run)
        except Interrupted as stop:
            out.print(f"{stop} after {run.study.finished():,} trials; to go on: {same_command(settings.run)}")
            sys.exit(128 + stop.signal_number)
    if found.front:
        out.print(front_table(found))
    out.print(*summary(found), sep="\n")
    out.print(f"run:         {folder} ({', '.join(files(folder))})")
    out.print(f"TensorBoard: tensorboard --logdir {shlex.quote(str(folder.parent))}")
    if found.best is None:
        return {}
    figures = {name: found.best.values[name] for name in settings.search.objectives}
    return {"architecture": run.target.space.encode(found.best.architecture), **figures}


def main() -> None:
    """Entry point of the console command."""
    run_verb("search", job)


if __name__ == "__main__":
    main()
