"""``nas-score``: what training-free proxies say about subnetworks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import result_console, run_verb, same_command
from nas.files import only_one

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Score, or go on scoring, in ``folder``; print the best."""
    from nas.config import settings_from
    from nas.settings import ScoreSettings

    settings = settings_from(config, ScoreSettings)

    from nas.cost.allocator import keep_freed_memory
    from nas.score.console import carry_out, table
    from nas.score.run import ScoreRun
    from nas.signals import Interrupted

    keep_freed_memory()
    out = result_console(settings.progress)
    with only_one(folder):
        run = ScoreRun(settings, folder)
        done = f", {len(run.rows):,} scored before" if run.rows else ""
        if settings.progress:
            out.print(f"{run.space.name}: {len(run.wanted):,} of {run.space.size:,} architectures{done}; {folder}")
        try:
            carry_out(run, out)
        except Interrupted as stop:
            found = f"{len(run.rows):,} of {len(run.wanted):,} architectures are in {run.journal.path}"
            out.print(f"{stop}; {found}; to go on: {same_command(settings.run)}")
            sys.exit(128 + stop.signal_number)
        path = run.write()
    out.print(table(run))
    out.print(f"scores: {path}")
    best, total = run.ranked()[0]
    return {"architecture": best.architecture, "rank_sum": total}


def main() -> None:
    """Entry point of the console command."""
    run_verb("score", job)


if __name__ == "__main__":
    main()
