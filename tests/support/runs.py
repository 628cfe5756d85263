"""Small training runs, and what it means that two of them are the same."""

import json
import os
import signal
from dataclasses import replace

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas.settings import (
    AdamWSettings,
    ChainSettings,
    EvaluateSettings,
    FairGateSettings,
    LearnedGateSettings,
    SyntheticSettings,
    TrackSettings,
    TrainRunSettings,
    TrainSettings,
    UniformGateSettings,
)
from nas.train import Run, fit

CHAIN = ChainSettings(widths=[4], depths=[2], strides=[1], candidates=["skip", "conv1", "conv3"])

MIXED = {"augment": ["trivial", "randaugment"], "mixup": 0.2, "cutmix": 1.0}

RUNS = {
    "two_branch-uniform-sgd": TrainRunSettings(),
    "chain-fair-adamw-ema": TrainRunSettings(
        space=CHAIN, gate=FairGateSettings(), optimizer=AdamWSettings(), train=TrainSettings(ema_decay=0.9, clip_norm=1)
    ),
    "chain-learned": TrainRunSettings(space=CHAIN, gate=LearnedGateSettings(every=3)),
    "concat-step_each": TrainRunSettings(
        space=replace(CHAIN, merge="concat"),
        gate=FairGateSettings(mode="step_each", open=[1, 2]),
        train=TrainSettings(clip_norm=0.5),
    ),
}


def tiny(settings: TrainRunSettings | None = None, **train: object) -> TrainRunSettings:
    """``settings`` at a size that trains within a second: 2 epochs of 11 steps."""
    settings = settings or TrainRunSettings(space=CHAIN, gate=UniformGateSettings())
    changes = {"epochs": 2, "batch_size": 8, "threads": 1, **train}
    return replace(
        settings,
        data=SyntheticSettings(size=100, image_size=16, classes=3, val_fraction=0.12, crop=2),
        train=replace(settings.train, **changes),
        evaluate=EvaluateSettings(rounds=1, recalibrate_images=16, batch_size=16),
        track=TrackSettings(log_every=4, progress=False),
    )


def finish(settings: TrainRunSettings, folder) -> Run:
    """Train to the end in ``folder``, or from where ``folder`` is."""
    run = Run(settings, folder)
    fit(run)
    run.tracker.writer.close()
    return run


def stop_after(run: Run, steps: int, number: int = signal.SIGTERM) -> None:
    """Let this process get a signal when ``run`` has made ``steps`` steps."""
    advance = run.progress.advance

    def hit(step, *rest):
        advance(step, *rest)
        if step == steps:
            os.kill(os.getpid(), number)

    run.progress.advance = hit


def state_of(run: Run) -> dict:
    """Everything of a run that must agree bit for bit, as plain data and tensors."""
    return {
        "model": run.supernet.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "gate": run.gate.state_dict(),
        "counts": run.tracker.counts,
        "random": torch.get_rng_state(),
    }


TIMED = ("time/", "slot_step_ms/", "overview/images_per_s")


def curves(folder) -> tuple[list[dict], dict]:
    """(metrics.jsonl, TensorBoard's scalars) without what a clock has measured."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in line.items() if not k.startswith(TIMED)} for line in lines]
    board = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in board.Tags()["scalars"] if not tag.startswith(TIMED)]
    return lines, {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


def assert_same(a: object, b: object, where: str = "") -> None:
    """Equal to the last bit, all the way down."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{where}[{i}]")
    else:
        assert a == b, where
