"""``nas-train``: train a gated supernet, or one of its subnetworks alone."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.entry import run_verb, same_command
from nas.cli.retrain import retrain_job
from nas.errors import CheckpointError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: DictConfig, folder: Path) -> None:
    """Train, or go on training, in ``folder``; print what came out."""
    from omegaconf import OmegaConf

    from nas.config import settings_from
    from nas.settings import TrainRunSettings

    settings = settings_from(config, TrainRunSettings)

    from rich.console import Console

    from nas.train import Interrupted, Run, fit, make_report, tables
    from nas.train.memory import keep_freed_memory

    keep_freed_memory()
    # Paths and overrides are printed as they are: not wrapped, and [conv3,skip] is no markup.
    out = Console(quiet=not settings.track.progress, soft_wrap=True, highlight=False, markup=False, emoji=False)
    if settings.architecture:
        return retrain_job(settings, folder, OmegaConf.to_yaml(config), out)
    if (folder / "scratch").is_dir():
        raise CheckpointError("run", folder, "has networks in it that were trained alone", "take another run=NAME")
    run = Run(settings, folder, OmegaConf.to_yaml(config))
    begun = f"going on at step {run.step} of {run.total_steps}" if run.step else f"{run.total_steps} steps"
    out.print(f"{run.space.name}: {run.space.size:,} architectures, {begun}, on {run.device}; {folder}")
    with closing(run.tracker.writer):
        try:
            fit(run)
        except Interrupted as stop:
            out.print(f"{stop} at step {run.step}, saved; to go on: {same_command(settings.run)}")
            sys.exit(128 + stop.signal_number)
        report = make_report(run)
    out.print(*tables(report), sep="\n")
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    out.print(f"{report.images_per_s:,.0f} images/s on {report.device}, {threads}")
    out.print(f"run:         {folder}\nTensorBoard: tensorboard --logdir {shlex.quote(str(folder.parent))}")


def main() -> None:
    """Entry point of the console command."""
    run_verb("train", job)


if __name__ == "__main__":
    main()
