"""``nas-rank``: hold a supernet's ranking against a table of truth."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import run_verb, stoppable, tensorboard
from nas.files import only_one
from nas.settings import RankRunSettings
from nas.signals import interrupt, on_stop

if TYPE_CHECKING:
    from rich.console import Console


def job(settings: RankRunSettings, folder: Path, out: Console) -> dict[str, Any]:
    """Predict, hold the predictions against the table, and write what came out into ``folder``."""
    from nas.rank import KnownValues, load_target, predict, rank, tables, write_report
    from nas.threads import Threads

    on_stop(interrupt)
    kept = ", predictions so far are kept"
    with only_one(folder), stoppable(out, settings.run, lambda: kept):
        target = load_target(settings)
        with Threads(settings.rank.threads, "pass") as threads:
            if (line := threads.choose(target.piece_of_work)) and settings.rank.progress:
                out.print(line)
            predictions = predict(target, settings, KnownValues(folder))
        ranking = rank(predictions, target.truth, settings.seed)
        write_report(folder, settings, target, predictions, ranking)
    out.print(*tables(ranking, target.truth), *ranking.conclusions, sep="\n")
    out.print(
        f"written to:  {folder}: rank.csv, predictions.csv, report.json, scatter.png\n{tensorboard(folder.parent)}"
    )
    best = max(ranking.rows, key=lambda row: row.correlation.tau)
    return {"predictor": best.name, "kendall_tau": best.correlation.tau}


main = partial(run_verb, "rank", RankRunSettings, job)

if __name__ == "__main__":
    main()
