"""Kill a short training run and a short search with SIGKILL at random moments, go on, compare with undisturbed ones.

    python scripts/soak.py                                  200 kills of each, some minutes
    python scripts/soak.py --what search --kills 20 --seed 1

A process is killed at a moment drawn uniformly from the time that the undisturbed one takes, and started again in the
same folder. Whenever a run comes to its end, its weights, moments and curves (a search: its architectures and what was
found of them) must be those of the undisturbed one; then a new folder is begun. Processes are forked from one that has
imported torch; some kills (--commands) are of the real nas-train command. A search has two workers, of which one or
both are killed. The exit status is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help answers without torch
    from nas.settings import SearchRunSettings, TrainRunSettings

FORK = multiprocessing.get_context("fork")
PHASES = ("start", "step", "evaluation", "checkpoint write", "claim", "tell", "report", "end")
COMMAND = [Path(sys.executable).with_name("nas-train"), "space=chain", "space.widths=[4]", "space.depths=[2]"]
COMMAND += ["space.strides=[1]", "data=synthetic", "data.size=400", "data.image_size=16", "train.epochs=6"]
COMMAND += ["train.batch_size=8", "train.threads=1", "train.save_every=7", "track.log_every=3", "gate=fair", "run=it"]


class Soak:
    """What was killed where, and what differed."""

    def __init__(self, name: str) -> None:
        self.name, self.kills, self.finished = name, 0, 0
        self.phases: Counter[str] = Counter()
        self.differences: list[str] = []

    def killed(self, phase: str) -> None:
        """Note a kill."""
        self.kills += 1
        self.phases[phase] += 1

    def compare(self, folder: Path, found: Any, expected: Any) -> None:
        """Note a run that came to its end."""
        self.finished += 1
        if found != expected:
            self.differences.append(str(folder))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="of each (default 200)")
    parser.add_argument("--what", choices=("train", "search", "both"), default="both")
    parser.add_argument("--commands", type=int, default=10, help="kills of the real nas-train among them (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--out", type=Path, help="folder of the runs, kept; left out, a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = asked.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        soaks = soak(out, asked.kills, asked.what, asked.commands, asked.seed)
    sys.exit(report(soaks))


def soak(out: Path, kills: int, what: str, commands: int, seed: int) -> list[Soak]:
    """Kill and compare; a row for each kind of process."""
    import torch

    torch.set_num_threads(1)  # forked processes inherit no threads
    chosen, found = random.Random(seed), []
    if what in ("train", "both"):
        found.append(soak_training(out / "train", kills - min(commands, kills), chosen))
        if commands:
            found.append(soak_commands(out / "command", min(commands, kills), chosen))
    if what in ("search", "both"):
        found.append(soak_search(out / "search", kills, chosen))
    return found


def report(soaks: list[Soak]) -> int:
    """Print what happened; the exit status."""
    from nas.console import ResultTable, new_console

    table = ResultTable("Kills at random moments", ["what", "killed in"], ["kills", "runs finished", "differences"])
    for one in soaks:
        where = ", ".join(f"{phase} {one.phases[phase]}" for phase in (*PHASES, "anywhere") if one.phases[phase])
        table.add_row(one.name, where, f"{one.kills}", f"{one.finished}", f"{len(one.differences)}")
    new_console().print(table)
    for one in soaks:
        for folder in one.differences:
            print(f"soak: {folder} is not what the undisturbed one is", file=sys.stderr)
    return int(any(one.differences or not one.finished for one in soaks))


# ----------------------------------------------------------------------------------------------------- a training run


def training() -> TrainRunSettings:
    """40 steps with moments, a learned gate, several checkpoints and evaluations."""
    from nas.settings import (
        AdamWSettings,
        ChainSettings,
        EvaluateSettings,
        LearnedGateSettings,
        SyntheticSettings,
        TrackSettings,
        TrainRunSettings,
        TrainSettings,
    )

    return TrainRunSettings(
        space=ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["skip", "conv1", "conv3"]),
        gate=LearnedGateSettings(every=3),
        optimizer=AdamWSettings(),
        data=SyntheticSettings(size=200, image_size=16, classes=3, val_fraction=0.2, crop=2),
        train=TrainSettings(epochs=2, batch_size=8, threads=1, ema_decay=0.9, clip_norm=1, save_every=7),
        evaluate=EvaluateSettings(rounds=1, recalibrate_images=16, batch_size=16),
        track=TrackSettings(log_every=4, progress=False),
    )


def train(folder: Path) -> None:
    """Train to the end."""
    from nas.train import Run, fit, make_report

    run = Run(training(), folder)
    fit(run)
    make_report(run)
    run.tracker.writer.close()


def train_marked(folder: Path, phase: Any) -> None:
    """Train to the end; ``phase`` says where it is."""
    import nas.train
    from nas import checkpoint
    from nas.train import Run

    _mark(nas.train.TrainStep, "__call__", phase, "step", "step")
    _mark(Run, "validate", phase, "evaluation", "step")
    _mark(checkpoint, "save", phase, "checkpoint write", "step")
    _mark(nas.train, "make_report", phase, "report", "end")
    train(folder)


def trained(folder: Path) -> Any:
    """What must not depend on kills: all of the newest checkpoint but times, the steps of the curves, the report."""
    from nas import checkpoint
    from nas.train.report import read_report

    state = checkpoint.load(checkpoint.saved(folder)[0])
    kept = {name: value for name, value in state.items() if name not in ("track", "metrics_bytes")}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shown = ("train/loss", "overview/accuracy_mean")
    curves = [(line["step"], sorted(line), *map(line.get, shown)) for line in lines]
    found = read_report(folder) if (folder / "report.json").is_file() else None  # a command of another name has none
    return plain([kept, curves, found and vars(replace(found, images_per_s=0.0))])


def soak_training(out: Path, kills: int, chosen: random.Random) -> Soak:
    """Kill a training run, in which one process works."""
    train(out / "undisturbed")  # here, so that everything is imported that needs to be
    took = _seconds(lambda: train_marked(out / "timed", _phase()))
    expected, found, number = trained(out / "undisturbed"), Soak("training run"), 0
    found.compare(out / "timed", trained(out / "timed"), expected)
    while found.kills < kills or found.finished < 2:
        phase = _phase()
        process = FORK.Process(target=train_marked, args=(out / str(number), phase))
        process.start()
        process.join(chosen.uniform(0, took) if found.kills < kills else None)
        if _kill(process):
            found.killed(PHASES[phase.value])
        else:
            found.compare(out / str(number), trained(out / str(number)), expected)
            number += 1
    return found


def soak_commands(out: Path, kills: int, chosen: random.Random) -> Soak:
    """Kill ``nas-train`` itself."""
    took = _seconds(lambda: _command(out / "undisturbed").wait())
    place = Path("outputs", "train", "it")
    expected, found, number = trained(out / "undisturbed" / place), Soak("nas-train"), 0
    while found.kills < kills or not found.finished:
        process = _command(out / str(number))
        try:
            status = process.wait(chosen.uniform(0, took) if found.kills < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status == -signal.SIGKILL:
            found.killed("anywhere")
            continue
        assert status == 0, f"nas-train ended with status {status}"
        found.compare(out / str(number), trained(out / str(number) / place), expected)
        number += 1
    return found


def _command(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(COMMAND, cwd=folder, stdout=subprocess.DEVNULL, env=environment)


# ------------------------------------------------------------------------------------------------------------ a search


def searching(checkpoint: Path) -> SearchRunSettings:
    """A genetic search over 24 of the 27 architectures of a supernet."""
    from nas.settings import SearchRunSettings, SearchSettings

    how = {"objectives": ["loss", "flops"], "sampler": "nsga2", "trials": 24, "batch": 3}
    return SearchRunSettings(checkpoint=str(checkpoint), search=SearchSettings(**how, threads=1, progress=False))


def work(folder: Path, checkpoint: Path) -> None:
    """Be one of the workers of a search."""
    from nas.search import Search, search

    run = Search(searching(checkpoint), folder)
    search(run)
    run.study.close()


def work_marked(folder: Path, checkpoint: Path, phase: Any) -> None:
    """Be one of the workers of a search; ``phase`` says where it is."""
    import nas.search.run
    from nas.search.study import Study

    _mark(Study, "claim", phase, "claim", "evaluation")
    _mark(Study, "tell", phase, "tell", "evaluation")
    _mark(nas.search.run, "write_report", phase, "report", "end")
    work(folder, checkpoint)


def searched(folder: Path) -> Any:
    """What must not depend on kills, or on which worker was faster: what was evaluated, with what was found."""
    import csv

    with (folder / "trials.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k not in ("seconds", "trial")} for row in csv.DictReader(file)]
    logs = [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]
    proposed = [log["architecture"] for log in logs if "architecture" in log]
    assert len(proposed) == len(rows), f"{folder}: {len(proposed)} proposals, {len(rows)} trials"
    return sorted(proposed), sorted(rows, key=lambda row: row["architecture"])


def soak_search(out: Path, kills: int, chosen: random.Random) -> Soak:
    """Kill a search, in which two processes work."""
    supernet = out / "supernet"
    train(supernet)
    work(out / "undisturbed", supernet)
    took = _seconds(lambda: work_marked(out / "timed", supernet, _phase()))
    expected, found, number = searched(out / "undisturbed"), Soak("search, two workers"), 0
    found.compare(out / "timed", searched(out / "timed"), expected)
    workers: list[tuple[Any, Any] | None] = [None, None]
    while found.kills < kills or found.finished < 2:
        folder = out / str(number)
        for i, worker in enumerate(workers):
            if worker is None:
                phase = _phase()
                process = FORK.Process(target=work_marked, args=(folder, supernet, phase))
                process.start()
                workers[i] = process, phase
        both = [worker for worker in workers if worker is not None]
        limit = time.monotonic() + chosen.uniform(0, took)
        while (found.kills >= kills or time.monotonic() < limit) and any(p.is_alive() for p, _ in both):
            time.sleep(0.002)
        victims = [0, 1] if chosen.random() < 0.3 else [chosen.randrange(2)]
        if any(process.is_alive() for process, _ in both):
            for i in victims:
                process, phase = both[i]
                if process.is_alive() and _kill(process):
                    found.killed(PHASES[phase.value])
                    workers[i] = None
            continue
        assert all(process.exitcode in (0, -signal.SIGKILL) for process, _ in both)
        found.compare(folder, searched(folder), expected)
        number, workers = number + 1, [None, None]
    for worker in workers:  # of a search that was begun and is not needed any more
        if worker is not None:
            _kill(worker[0])
    return found


# --------------------------------------------------------------------------------------------------------------- both


def _seconds(call: Callable[[], Any]) -> float:
    """How long it takes in a process of its own."""
    process, begun = FORK.Process(target=call), time.monotonic()
    process.start()
    process.join()
    assert process.exitcode == 0, "the undisturbed one failed"
    return time.monotonic() - begun


def _kill(process: Any) -> bool:
    """Kill it; False if it had ended by itself."""
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"a process went wrong, with status {process.exitcode}"
    return bool(process.exitcode)


def _phase() -> Any:
    """Where a process is, to be read after its death."""
    return FORK.RawValue("i", 0)


def _mark(owner: Any, name: str, phase: Any, during: str, after: str) -> None:
    """Let ``phase`` say where a process is while a function is carried out, and after that."""
    function = getattr(owner, name)

    @wraps(function)
    def marked(*args: Any, **more: Any) -> Any:
        phase.value = PHASES.index(during)
        result = function(*args, **more)
        phase.value = PHASES.index(after)
        return result

    setattr(owner, name, marked)


def plain(data: Any) -> Any:
    """Nested data in which tensors are bytes, so that it can be compared."""
    import torch

    if isinstance(data, torch.Tensor):
        return str(data.dtype), tuple(data.shape), data.contiguous().numpy().tobytes()
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if is_dataclass(data):
        return plain(vars(data))
    return [plain(value) for value in data] if isinstance(data, list | tuple) else data


if __name__ == "__main__":
    main()
