"""``nas-train``: train a gated supernet."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from nas.cli.entry import run_verb
from nas.config import settings_from
from nas.settings import TrainRunSettings


def job(config: DictConfig, folder: Path) -> None:
    """Train, or go on training, in ``folder``; print what came out."""
    settings = settings_from(config, TrainRunSettings)

    from rich.console import Console

    from nas.train import Interrupted, Run, fit, make_report, tables
    from nas.train.memory import keep_freed_memory

    warnings.showwarning = lambda message, *_: print(f"nas-train: {message}", file=sys.stderr)
    keep_freed_memory()
    run = Run(settings, folder, OmegaConf.to_yaml(config))
    out = Console(quiet=not settings.track.progress)
    begun = f"going on at step {run.step} of {run.total_steps}" if run.step else f"{run.total_steps} steps"
    out.print(f"{run.space.name}: {run.space.size:,} architectures, {begun}, on {run.device}; {folder}", soft_wrap=True)
    try:
        fit(run)
    except Interrupted as stop:
        out.print(f"{stop} at step {run.step}, saved; to go on: {again(settings.run)}", soft_wrap=True)
        sys.exit(128 + stop.signal_number)
    report = make_report(run)
    out.print(*tables(report), sep="\n")
    out.print(f"{report.images_per_s:,.0f} images/s on {report.device}, {report.threads} threads", highlight=False)
    out.print(f"run:         {folder}\nTensorBoard: tensorboard --logdir {folder}", soft_wrap=True, highlight=False)


def again(run: str) -> str:
    """The command line that goes on with this run."""
    words = [word for word in sys.argv[1:] if not word.startswith("run=")]
    return shlex.join(["nas-train", *words, f"run={run}"])


def main() -> None:
    """Entry point of the console command."""
    run_verb("train", job)


if __name__ == "__main__":
    main()
