"""``nas-rank``: hold a supernet's ranking against a table of truth."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import result_console, run_verb
from nas.files import only_one

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Predict, hold the predictions against the table, and write what came out into ``folder``."""
    from nas.config import settings_from
    from nas.settings import RankRunSettings

    settings = settings_from(config, RankRunSettings)

    import torch

    from nas.cost.allocator import keep_freed_memory
    from nas.rank import KnownValues, load_target, predict, rank, tables, write_report

    keep_freed_memory()
    if settings.rank.threads:
        torch.set_num_threads(settings.rank.threads)
    with only_one(folder):
        target = load_target(settings)
        predictions = predict(target, settings, KnownValues(folder))
        ranking = rank(predictions, target.truth, settings.seed)
        write_report(folder, settings, target, predictions, ranking)
    out = result_console(settings.rank.progress)
    out.print(*tables(ranking, target.truth), sep="\n")
    out.print(*ranking.conclusions, sep="\n")
    out.print(f"written to:  {folder}: rank.csv, predictions.csv, report.json, scatter.png")
    out.print(f"TensorBoard: tensorboard --logdir {shlex.quote(str(folder.parent))}")
    best = max(ranking.rows, key=lambda row: row.correlation.tau)
    return {"predictor": best.name, "kendall_tau": best.correlation.tau}


def main() -> None:
    """Entry point of the console command."""
    run_verb("rank", job)


if __name__ == "__main__":
    main()
