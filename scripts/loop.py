"""Images a second of nas-train over a long run, beside those of its own bare steps.

    python scripts/loop.py space=chain data=folder data.root=cifar10.zip train.threads=1 > loop.json
    python scripts/loop.py ... train.epochs=2          # quicker

The words are those of nas-train. After every 50 steps of the run, they are made once more with nothing around them, by
the same network, on the same paths and the same batches, which lie there; then it is put back as it was. A busy machine
slows both alike, and each epoch has a ratio.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import hydra
from torch import Tensor

from nas.bench.compare import machine, ratio_of
from nas.config import conf_folder, plain_keys, register, settings_from
from nas.console import new_console
from nas.cost.allocator import keep_freed_memory
from nas.settings import TrainRunSettings
from nas.track import Progress
from nas.train import Run, fit, make_report
from nas.train.left import time_left
from nas.train.step import unmeasured

PIECE = 50
STILL = 1e-12
"""A learning rate that moves no weight."""


class Timed(Run):
    """A run that notes what its evaluations and checkpoints take, and saves no more often than it would in one go."""

    beside_s = 0.0

    def _note(self, work: Callable[[], None]) -> None:
        began = perf_counter()
        work()
        self.beside_s += perf_counter() - began

    def validate(self) -> None:
        """Evaluate."""
        self._note(super().validate)

    def save(self) -> None:
        """Save, if it is due."""
        if self.save_due(self.step):
            self._note(super().save)

    def bare_s(self, first: int, last: int) -> float:
        """Seconds of bare steps on the paths of steps ``first`` to ``last``; the run is left as it was."""
        state = [*self.supernet.state_dict().values(), *self.optimizer.state_dict().values()]
        kept = [(one, one.clone()) for one in state if isinstance(one, Tensor)]
        step = replace(self.train_step, norms=unmeasured)
        steps = [(self.batches.batch(number), self.gate.paths(number), STILL) for number in range(first, last)]
        with self.threads:
            step(*steps[0])
            began = perf_counter()
            for each in steps:
                step(*each)
            seconds = perf_counter() - began
        for one, copy in kept:
            one.copy_(copy)
        return seconds


def measure(settings: TrainRunSettings, folder: Path) -> tuple[dict[str, list[float]], float, int]:
    """Seconds by epoch of what is compared; of all that nas-train does, once; and images an epoch."""
    began, bare_s = perf_counter(), 0.0
    run = Timed(settings, folder)
    epochs = run.total_steps, run.steps_per_epoch, run.step
    run.progress = Progress(*epochs, settings.track.progress, new_console(stderr=True), time_left(run))
    seconds: dict[str, list[float]] = {"bare": [], "steps": [], "all": []}
    for epoch in range(1, settings.train.epochs + 1):
        bare, whole, run.beside_s = 0.0, 0.0, 0.0
        while run.step < epoch * run.steps_per_epoch:
            first, started = run.step, perf_counter()
            fit(run, until=min(first + PIECE, epoch * run.steps_per_epoch))
            between = perf_counter()
            whole += between - started
            bare += run.bare_s(first, run.step)
            bare_s += perf_counter() - between
        for name, value in (("bare", bare), ("steps", whole - run.beside_s), ("all", whole)):
            seconds[name].append(value)
    make_report(run)
    run.tracker.writer.close()
    return seconds, perf_counter() - began - bare_s, run.steps_per_epoch * settings.train.batch_size


def main() -> None:
    """Entry point."""
    words = [plain_keys(word) for word in sys.argv[1:]]
    register(words, ["train"])
    with hydra.initialize_config_dir(conf_folder(), version_base="1.3"):
        settings = settings_from(hydra.compose("train", [*words, "run=loop"]), TrainRunSettings)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        seconds, total, images = measure(settings, Path(folder))
    rows = []
    for what, name, bar in (("evaluation and checkpoints left out", "steps", "0.97"), ("included", "all", "0.85")):
        ratio, speed = ratio_of(seconds["bare"], seconds[name]), images / statistics.median(seconds[name])
        rows.append([what, f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}", bar, f"{speed:,.0f}"])
    whole, epochs = sum(seconds["bare"]) / total, len(seconds["bare"])
    rows.append(["and start-up and the report", f"{whole:.3f}", "once", "", f"{epochs * images / total:,.0f}"])
    rows.append(["bare steps", "1", "", "", f"{images / statistics.median(seconds['bare']):,.0f}"])
    columns = ["nas-train's images/s / the bare steps'", "median", "quartiles", "at least", "images/s"]
    print(json.dumps({"columns": columns, "rows": rows, "seconds": seconds, "machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
