"""Train every architecture of a small space from scratch: a benchmark table that supernets are ranked against.

    python scripts/make_table.py data.root=path/to/cifar10.zip            the table of this project: hours on 2 cores
    python scripts/make_table.py data=digits data.train_images=0 train.epochs=2 space.depths=[1,1] --out digits.csv

Overrides are those of nas-train; the script's own DEFAULTS come before them. A row of the table is what

    nas-train gate=fixed gate.architecture=A seed=S evaluate.recalibrate=false ...

reports as test accuracy with the settings in the table's head. Beside the table stand its learning curves, in
OUT_curves.csv: the mean training loss and the validation accuracy after each epoch of each training. A journal keeps
every finished training, so the same command continues after a stop.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help answers without torch
    from nas.data import Splits
    from nas.journal import Journal
    from nas.settings import TrainRunSettings
    from nas.space import SearchSpace

DEFAULTS = [
    "space=chain",
    "space.widths=[8,16]",
    "data=folder",
    "data.train_images=10000",
    "data.crop=0",
    "optimizer.lr=0.1",
    "train.epochs=8",
    "train.channels_last=true",
    "train.threads=1",
]
"""The settings of the table in the package. Images are not cropped at random, because 8 epochs are few."""
Found = dict[tuple[str, int], dict[str, Any]]
"""By architecture and seed: the ``accuracy`` of a training, and its curves by the names of their attributes."""
MOST = 4096
"""Maximal number of architectures in a table: each of them is trained once for each seed."""


def main() -> None:
    """Entry point; a user's mistake ends with status 1 and one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="make_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="settings of nas-train, such as data.root=cifar10.zip")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each architecture (default 3)")
    parser.add_argument("--first-seed", type=int, default=0, help="of these trainings (default 0)")
    parser.add_argument("--networks", type=int, default=0, help="train only so many, drawn by the first seed")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("outputs/table/chain.csv"), help="the table to write")
    asked = parser.parse_intermixed_args()  # overrides may come before and after options
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from nas.config import explain
    from nas.errors import NasError

    try:
        make(asked)
    except NasError as error:
        sys.exit(f"make_table: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"make_table: {explain(error, asked.overrides)}")
    except OSError as error:
        sys.exit(f"make_table: {error.filename}: {error.strerror}; make room or take another --out, and start again")
    except KeyboardInterrupt:
        sys.exit("make_table: stopped; the same command goes on")


def make(asked: argparse.Namespace) -> None:
    """Run the missing trainings, then write the table."""
    import torch

    from nas.errors import require
    from nas.seeds import generator

    require(asked.seeds >= 1, "--seeds", asked.seeds, "must be at least 1", "write --seeds 3")
    require(asked.workers >= 1, "--workers", asked.workers, "must be at least 1", "write --workers 2")
    require(asked.first_seed >= 0, "--first-seed", asked.first_seed, "must be at least 0", "write --first-seed 0")
    settings = compose([*DEFAULTS, *asked.overrides])
    space, _ = parts(settings, asked.first_seed)
    rule = f"a table trains each of its architectures; this space has {space.size:,}, at most {MOST:,} are taken"
    require(space.size <= MOST, "space", space.name, rule, "take a smaller space")
    rule, remedy = f"must be from 1 to {space.size:,}", "leave it out for all of the space"
    require(0 <= asked.networks <= space.size, "--networks", asked.networks, rule, remedy)
    names = [space.encode(a) for a in space.enumerate()]
    if asked.networks:
        draws = torch.randperm(len(names), generator=generator(asked.first_seed, "make_table"))
        names = [names[i] for i in sorted(draws[: asked.networks].tolist())]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    head, seeds = head_of(settings), range(asked.first_seed, asked.first_seed + asked.seeds)
    journal, found = resume(asked.out, head)
    todo = [(settings, name, seed) for seed in seeds for name in names if (name, seed) not in found]
    if todo:
        train_all(todo, journal, asked.workers)
    write(asked.out, head, names, found, seeds)
    print(f"{len(names)} architectures, {asked.seeds} seeds: {asked.out}")


def train_all(todo: list[tuple[TrainRunSettings, str, int]], journal: Journal, workers: int) -> None:
    """Train in worker processes; each accuracy goes to the journal as soon as it is known."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    from nas.console import track
    from nas.errors import DataError

    begun = (begin, (todo[0][0].train.threads, os.getpid()))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), *begun)
    try:
        trained = as_completed([pool.submit(train_one, task) for task in todo])
        for text, seed, result in track((one.result() for one in trained), "training", len(todo)):
            if isinstance(result, str):
                rule = f"architecture {text} cannot be trained with seed {seed}: {result}"
                remedy = "what is done is kept; lower optimizer.lr and take another --out"
                raise DataError("--out", journal.path, rule, remedy)
            journal.append({"architecture": text, "seed": seed, **result})
    except BrokenProcessPool:
        rule, remedy = "a training process was killed, as a rule for want of memory", "the same command goes on"
        raise DataError("--workers", workers, rule, f"what is done is kept: {remedy}, with fewer --workers") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()  # its result is no longer needed


def compose(overrides: list[str]) -> TrainRunSettings:
    """The settings that nas-train would run with."""
    import hydra

    from nas.config import conf_folder, register, settings_from
    from nas.settings import TrainRunSettings

    register()
    with hydra.initialize_config_dir(conf_folder(), version_base="1.3"):
        return settings_from(hydra.compose("train", [*overrides, "run=table"]), TrainRunSettings)


def parts(settings: TrainRunSettings, seed: int) -> tuple[SearchSpace, Splits]:
    """The space, and the images of a seed."""
    from nas.space import build_space

    splits = _splits(json.dumps(asdict(settings.data)), seed)
    return build_space(settings.space, *splits.sizes).opened(settings.gate.numbers), splits


@lru_cache(maxsize=1)
def _splits(data: str, seed: int) -> Splits:
    """The images that ``data`` describes: settings as JSON, because the cache needs a hashable key."""
    from nas.data import load_splits
    from nas.settings import train_settings

    return load_splits(train_settings({"data": json.loads(data)}).data, seed)


def begin(threads: int | str, parent: int) -> None:
    """Set a worker up: it ignores Ctrl-C, which is for the parent process, and ends when the parent does."""
    import signal
    import threading
    import time

    import torch

    from nas.cost.allocator import keep_freed_memory

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads if isinstance(threads, int) and threads else 1)
    keep_freed_memory()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # the parent was killed, so nobody reads this worker's results or errors

    threading.Thread(target=end_with_parent, daemon=True).start()


def train_one(task: tuple[TrainRunSettings, str, int]) -> tuple[str, int, dict[str, Any] | str]:
    """Train one architecture; returns its test ``accuracy``, 0 to 1, and its curves, or the error message."""
    from nas.errors import NasError
    from nas.train.alone.scratch import LearningCurve, train_from_scratch

    settings, text, seed = task
    curve = LearningCurve()
    try:
        space, splits = parts(settings, seed)
        found = train_from_scratch(replace(settings, seed=seed), space, splits, space.decode(text), curve)
        return text, seed, {"accuracy": found.accuracy, **asdict(curve)}
    except NasError as error:  # as text, which the parent can unpickle
        return text, seed, str(error)


def head_of(settings: TrainRunSettings) -> dict[str, Any]:
    """The settings and versions that the accuracies depend on."""
    from nas.checkpoint import versions

    plain = {name: asdict(getattr(settings, name)) for name in ("space", "data", "optimizer", "train")}
    for name in ("root", "cache", "download"):  # the place of the images does not matter
        plain["data"].pop(name, None)
    return {"settings": plain, "versions": versions()}


def resume(out: Path, head: dict[str, Any]) -> tuple[Journal, Found]:
    """The journal beside the table, and its trainings by architecture and seed."""
    from nas.journal import Journal

    found: Found = {}

    def replay(entry: dict[str, Any]) -> None:
        found[entry["architecture"], entry["seed"]] = {"accuracy": float(entry["accuracy"]), **entry}

    path = out.with_suffix(".jsonl")
    return Journal(path, "make_table", head["settings"], replay, result=out, place="--out"), found


def write(out: Path, head: dict[str, Any], names: list[str], found: Found, seeds: range) -> None:
    """Write the table: the settings as comments, then a row for each architecture; and beside it the curves."""
    from nas.files import write_csv

    comments = "".join(f"# {name}: {json.dumps(value)}\n" for name, value in head.items())
    columns = ["architecture", *(f"accuracy_{seed}" for seed in seeds)]
    write_csv(out, columns, ([n, *(f"{found[n, s]['accuracy']:.4f}" for s in seeds)] for n in names), comments)
    epochs = range(1, head["settings"]["train"]["epochs"] + 1)
    kinds = {"train_losses": "train_loss", "val_accuracies": "val_accuracy"}
    columns = ["architecture", "seed", *(f"{head}_{epoch}" for head in kinds.values() for epoch in epochs)]
    rows = (
        [name, seed, *(f"{value:.4f}" for kind in kinds for value in found[name, seed][kind])]
        for name in names
        for seed in seeds
        if all(kind in found[name, seed] for kind in kinds)  # trainings of an older version have no curves
    )
    write_csv(out.with_name(f"{out.stem}_curves.csv"), columns, rows, comments)


if __name__ == "__main__":
    main()
