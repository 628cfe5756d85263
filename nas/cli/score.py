"""``nas-score``: what training-free proxies say about subnetworks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import run_verb, stoppable
from nas.files import only_one
from nas.settings import ScoreSettings

if TYPE_CHECKING:
    from rich.console import Console


def job(settings: ScoreSettings, folder: Path, out: Console) -> dict[str, Any]:
    """Score, or go on scoring, in ``folder``; print the best."""
    from nas.score.console import carry_out, table
    from nas.score.run import ScoreRun

    with only_one(folder):
        run = ScoreRun(settings, folder)
        if settings.progress:
            done = f", {len(run.rows):,} scored before" if run.rows else ""
            out.print(f"{run.space.name}: {len(run.wanted):,} of {run.space.size:,} architectures{done}; {folder}")
        rest = f" of {len(run.wanted):,} architectures are in {run.journal.path}"
        with stoppable(out, settings.run, lambda: f"; {len(run.rows):,}{rest}"):
            carry_out(run, out)
        path = run.write()
    out.print(table(run))
    out.print(f"scores: {path}")
    best, total = run.ranked()[0]
    return {"architecture": best.architecture, "rank_sum": total}


main = partial(run_verb, "score", ScoreSettings, job)

if __name__ == "__main__":
    main()
