"""``nas-train``: train a gated supernet, or one of its subnetworks alone."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import result_console, run_verb, same_command
from nas.cli.retrain import retrain_job
from nas.cli.torchrun import joined_world, local_world_size, refuse_several, refused_once, torchrun_command
from nas.errors import CheckpointError
from nas.files import only_one

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from nas.dist import World
    from nas.settings import TrainRunSettings


def job(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Train, or go on training, in ``folder``; print what came out."""
    from omegaconf import OmegaConf

    from nas.config import settings_from
    from nas.settings import TrainRunSettings

    settings, text = settings_from(config, TrainRunSettings), OmegaConf.to_yaml(config)

    from nas.cost.allocator import keep_freed_memory
    from nas.cost.memory import check_memory, explain_out_of_memory
    from nas.dist import choose_device

    keep_freed_memory()
    with joined_world(settings) as world:
        out = result_console(settings.track.progress, world.is_main)
        here, local_rank = (local_world_size(), world.local_rank) if world.size > 1 else (1, None)
        device = choose_device(settings.train.device, local_rank)
        needs = check_memory(settings, device, world.size, here)
        if needs and settings.track.progress:
            out.print(needs)
        with explain_out_of_memory(settings):
            if settings.architecture:
                refuse_several("architecture", settings.architecture)
                return retrain_job(settings, folder, text, out)
            else:
                with only_one(folder) if world.is_main else nullcontext():
                    return _train(settings, folder, text, world, out)


def _train(settings: TrainRunSettings, folder: Path, text: str, world: World, out: Console) -> dict[str, Any]:
    from nas.signals import Abandoned, Interrupted
    from nas.train import Run, fit, make_report, tables

    if (folder / "scratch").is_dir():
        raise CheckpointError("run", folder, "has networks in it that were trained alone", "take another run=NAME")
    run = Run(settings, folder, text, world=world)
    begun = f"going on at step {run.step} of {run.total_steps}" if run.step else f"{run.total_steps} steps"
    on = f"{run.device}" if world.size == 1 else f"{world.size} processes, {run.device.type}"
    if settings.track.progress:
        out.print(f"{run.space.name}: {run.space.size:,} architectures, {begun}, on {on}; {folder}")
    with closing(run.tracker.writer):
        try:
            fit(run)
        except Abandoned as stop:
            command = torchrun_command("nas.cli.train", sys.argv[1:])
            out.print(f"{stop} in step {run.step}; to go on from the last checkpoint, the same command: {command}")
            sys.exit(128 + stop.signal_number)
        except Interrupted as stop:
            world.barrier()  # while rank 0 saves: torchrun ends all processes as soon as one has ended
            command = same_command(settings.run) if world.size == 1 else torchrun_command("nas.cli.train", sys.argv[1:])
            how = "to go on" if world.size == 1 else "to go on, the same command"
            out.print(f"{stop} at step {run.step}, saved; {how}: {command}")
            sys.exit(128 + stop.signal_number)
        report = make_report(run) if world.is_main else None
        world.barrier()
    if report is None:
        return {}
    out.print(*tables(report), sep="\n")
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    processes = f", {report.processes} processes of" if report.processes > 1 else ","
    out.print(f"{report.images_per_s:,.0f} images/s on {report.device}{processes} {threads}")
    out.print(f"run:         {folder}\nTensorBoard: tensorboard --logdir {shlex.quote(str(folder.parent))}")
    best = report.subnetworks[0]
    accuracies = {"val_accuracy": best.val_accuracy, "test_accuracy": best.test_accuracy}
    return {"architecture": best.architecture, **accuracies, "images_per_s": report.images_per_s}


def main() -> None:
    """Entry point of the console command."""
    with refused_once(sys.argv[1:]):
        run_verb("train", job)


if __name__ == "__main__":
    main()
