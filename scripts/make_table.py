"""Train every architecture of a small space from scratch: a table of truth that supernets can be ranked against.

    python scripts/make_table.py data.root=path/to/cifar10.zip            the table of this project, hours on 2 cores
    python scripts/make_table.py data=digits train.epochs=2 space.depths=[1,1] --seeds 2 --out digits.csv

Overrides are those of nas-train; what stands in DEFAULTS comes first. A row of the table is what

    nas-train gate=fixed gate.architecture=A seed=S evaluate.recalibrate=false ...

reports as test accuracy with the settings in the table's head. Every finished training is kept beside the table at
once, so the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import csv
import io
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
"""The settings of the table that comes with the package: pictures that are not moved, since 8 epochs are few."""
MOST = 4096
"""Architectures that a table may have: each is a training, and each seed one more."""


def main() -> None:
    """Entry point; what a user can mend ends with status 1 and one line on standard error."""
    parser = argparse.ArgumentParser(prog="make_table", description="A table of truth for a small space.")
    parser.add_argument("overrides", nargs="*", help="of nas-train, such as data.root=cifar10.zip")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each architecture (default 3)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("outputs/table/chain.csv"), help="the table to write")
    asked = parser.parse_args()
    from omegaconf.errors import OmegaConfBaseException

    from nas.errors import NasError

    try:
        make(asked)
    except (NasError, OmegaConfBaseException) as error:
        sys.exit(f"make_table: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("make_table: stopped; the same command goes on")


def make(asked: argparse.Namespace) -> None:
    """Do what is not done yet, then write the table."""
    from rich.progress import track

    from nas.errors import require

    require(asked.seeds >= 1, "--seeds", asked.seeds, "must be at least 1", "write --seeds 3")
    require((asked.workers or 1) >= 1, "--workers", asked.workers, "must be at least 1", "write --workers 2")
    settings = compose([*DEFAULTS, *asked.overrides])
    space, _ = parts(settings, 0)
    rule = f"a table trains each of its architectures; this space has {space.size:,}, at most {MOST:,} are taken"
    require(space.size <= MOST, "space", space.name, rule, "take a smaller space")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    head, kept = head_of(settings), asked.out.with_suffix(".jsonl")
    found = resume(kept, head)
    todo = [
        (settings, text, seed)
        for seed in range(asked.seeds)
        for text in map(space.encode, space.enumerate())
        if (text, seed) not in found
    ]
    with (
        open(kept, "a") as file,
        multiprocessing.get_context("spawn").Pool(asked.workers, begin, (settings.train.threads,)) as pool,
    ):
        if not file.tell():
            file.write(json.dumps(head) + "\n")
        for text, seed, accuracy in track(pool.imap_unordered(train_one, todo), "training", len(todo)):
            found[text, seed] = accuracy
            file.write(json.dumps([text, seed, accuracy]) + "\n")
            file.flush()
    write(asked.out, head, [space.encode(a) for a in space.enumerate()], found, asked.seeds)
    print(f"{space.size} architectures, {asked.seeds} seeds: {asked.out}")


def compose(overrides: list[str]) -> TrainRunSettings:
    """The settings that nas-train would run with."""
    import hydra

    from nas.config import conf_folder, register, settings_from
    from nas.settings import TrainRunSettings

    register()
    with hydra.initialize_config_dir(conf_folder(), version_base="1.3"):
        return settings_from(hydra.compose("train", [*overrides, "run=table"]), TrainRunSettings)


@lru_cache(maxsize=1)
def _splits(data: str, seed: int, settings: Any) -> Splits:
    from nas.data import load_splits

    return load_splits(settings.value, seed)


class _Held:
    """Settings as an argument of a cached function: equal to all others, since the key says which they are."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)


def parts(settings: TrainRunSettings, seed: int) -> tuple[SearchSpace, Splits]:
    """The space, and the pictures of a seed."""
    from nas.space import build_space

    splits = _splits(repr(settings.data), seed, _Held(settings.data))
    return build_space(settings.space, splits.channels, splits.image_size, len(splits.classes)), splits


def begin(threads: int) -> None:
    """What a worker does first. Ctrl-C is for the process that hands out the work."""
    import signal

    import torch

    from nas.train.memory import keep_freed_memory

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads or 1)
    keep_freed_memory()


def train_one(task: tuple[TrainRunSettings, str, int]) -> tuple[str, int, float]:
    """One training; the test accuracy, 0 to 1."""
    from nas.train.alone import train_alone

    settings, text, seed = task
    space, splits = parts(settings, seed)
    return text, seed, train_alone(replace(settings, seed=seed), space, splits, space.decode(text)).accuracy


def head_of(settings: TrainRunSettings) -> dict[str, Any]:
    """What the accuracies depend on."""
    from nas.train.checkpoint import versions

    plain = {name: asdict(getattr(settings, name)) for name in ("space", "data", "optimizer", "train")}
    for name in ("root", "cache", "download"):  # where the pictures lie does not matter
        plain["data"].pop(name, None)
    return {"settings": plain, "versions": versions()}


def resume(kept: Path, head: dict[str, Any]) -> dict[tuple[str, int], float]:
    """The trainings that are done already."""
    from nas.errors import require

    if not kept.is_file():
        return {}
    lines = kept.read_text().splitlines()
    ok = bool(lines) and json.loads(lines[0])["settings"] == head["settings"]
    require(ok, "--out", kept, "was begun with other settings", "take another --out, or the settings it was begun with")
    found = {}
    for line in lines[1:]:
        try:
            text, seed, accuracy = json.loads(line)
        except ValueError:  # a line that was cut off when the process was killed: that training is done again
            continue
        found[text, seed] = accuracy
    return found


def write(out: Path, head: dict[str, Any], order: list[str], found: dict[tuple[str, int], float], seeds: int) -> None:
    """The table: the settings as comments, then a row an architecture; whole or not at all."""
    text = io.StringIO()
    text.write(f"# settings: {json.dumps(head['settings'])}\n# versions: {json.dumps(head['versions'])}\n")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["architecture", *(f"accuracy_{seed}" for seed in range(seeds))])
    rows.writerows([name, *(f"{found[name, seed]:.4f}" for seed in range(seeds))] for name in order)
    unfinished = out.with_suffix(".unfinished")
    unfinished.write_text(text.getvalue())
    os.replace(unfinished, out)


if __name__ == "__main__":
    main()
