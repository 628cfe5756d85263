"""``nas-train``: train a gated supernet, or one of its subnetworks alone."""

from __future__ import annotations

import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import end_stopped, run_verb, tensorboard
from nas.cli.retrain import figures, retrain_job, with_source
from nas.cli.torchrun import joined_world, local_world_size, refused_once
from nas.config import given, yaml_of
from nas.errors import CheckpointError
from nas.files import only_one
from nas.settings import TrainRunSettings
from nas.signals import Abandoned, Interrupted, stop_signals

if TYPE_CHECKING:
    from rich.console import Console

    from nas.dist import World
    from nas.train import Run


def job(settings: TrainRunSettings, folder: Path, out: Console) -> dict[str, Any]:
    """Train, or go on training, in ``folder``; print what came out."""
    from nas.cost.memory import check_memory, explain_out_of_memory
    from nas.dist import choose_device

    if settings.architecture:
        settings = with_source(settings)
    with joined_world(settings) as world:
        device = choose_device(settings.train.device, world.local_rank if world.size > 1 else None)
        needs = check_memory(settings, device, world.size, local_world_size())
        if needs and settings.track.progress:
            out.print(needs)
        with explain_out_of_memory(settings):
            if settings.architecture:
                return retrain_job(settings, folder, out)
            with only_one(folder) if world.is_main else nullcontext():
                return _train(settings, folder, world, out)


def _train(settings: TrainRunSettings, folder: Path, world: World, out: Console) -> dict[str, Any]:
    from hydra.core.hydra_config import HydraConfig

    from nas.train import Run, fit, make_report, tables

    if (folder / "scratch").is_dir():
        raise CheckpointError("run", folder, "has networks in it that were trained alone", "take another run=NAME")
    if settings.track.progress and settings.train.compile == "branches":
        out.print("compiling what runs for the first time: up to two minutes, seconds once it is on the disk")
    words = HydraConfig.get().overrides.task
    run = Run(settings, folder, yaml_of(settings), world=world, given=given(settings, words))
    with closing(run.tracker.writer):
        try:
            alone = run.world.size == 1  # then a stop is said to be one from the first word on
            with stop_signals() if alone else nullcontext():
                if settings.track.progress:
                    _say_begun(run, out, folder)
                fit(run)
        except Abandoned as stop:
            end_stopped(out, settings.run, stop, f" in step {run.step}")
        except Interrupted as stop:
            world.barrier()  # while rank 0 saves: torchrun ends all processes as soon as one has ended
            end_stopped(out, settings.run, stop, f" at step {run.step}, saved")
        report = make_report(run) if world.is_main else None
        world.barrier()
    if report is None:
        return {}
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    processes = f", {report.processes} processes of" if report.processes > 1 else ","
    out.print(*tables(report), f"{report.images_per_s:,.0f} images/s on {report.device}{processes} {threads}", sep="\n")
    out.print(f"run:         {folder}")
    if "tensorboard" in settings.track.writers:
        out.print(tensorboard(folder.parent))
    return {**figures(report.subnetworks[0]), "images_per_s": report.images_per_s}


def _say_begun(run: Run, out: Console, folder: Path) -> None:
    begun = f"going on at step {run.step} of {run.total_steps}" if run.step else f"{run.total_steps} steps"
    if len(run.cycle_ends) > 1:
        begun += ", a new cycle from step {} to {}".format(*run.cycle_ends[-2:])
    on = f"{run.device}" if run.world.size == 1 else f"{run.world.size} processes, {run.device.type}"
    out.print(f"{run.space.name}: {run.space.size:,} architectures, {begun}, on {on}; {folder}")
    if run.timings:
        out.print(run.timings)


def main() -> None:
    """Entry point of the console command."""
    with refused_once(sys.argv[1:]):
        run_verb("train", TrainRunSettings, job)


if __name__ == "__main__":
    main()
