"""N processes train as one process does: the same batches, paths, gradients, weights."""

import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from support.processes import together
from support.runs import CHAIN, MIXED, assert_same, state_of, tiny

import nas.train.run
from nas.data import Batches
from nas.dist import SINGLE, GradientExchange
from nas.settings import (
    AdamWSettings,
    DistSettings,
    FairGateSettings,
    LearnedGateSettings,
    TrainRunSettings,
    TrainSettings,
    TwoBranchSettings,
)
from nas.signals import Interrupted
from nas.train import Run, fit

PLAIN = TrainRunSettings(space=TwoBranchSettings(branches=3))
"""A network without BatchNorm."""
WITHOUT_BATCHNORM = {
    "sgd": PLAIN,
    "adamw-ema-clipped": replace(
        PLAIN, optimizer=AdamWSettings(), train=TrainSettings(ema_decay=0.9, clip_norm=1.0, label_smoothing=0.1)
    ),
    "fair": replace(PLAIN, gate=FairGateSettings()),
    "learned": replace(PLAIN, gate=LearnedGateSettings(every=3, lr=0.1)),
}
SYNC = TrainRunSettings(space=CHAIN, gate=FairGateSettings(), dist=DistSettings(batchnorm="sync"))
SYNC_LEARNED = replace(SYNC, gate=LearnedGateSettings(every=3))


@pytest.fixture
def float64(monkeypatch):
    """Networks are made, and batches given, in float64."""
    batch, ordered = Batches.batch, nas.train.run.Ordered
    monkeypatch.setattr(Batches, "batch", lambda self, step: doubled(batch(self, step)))
    monkeypatch.setattr(nas.train.run, "Ordered", lambda *args: list(map(doubled, ordered(*args))))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def doubled(batch):
    x, y = batch
    return x.double(), y


def trained(world, settings, folder, steps=None):
    """Train in ``folder``; or until the last rank is told to stop in the last of ``steps`` steps."""
    run = Run(settings, folder, world=world)
    batch, record, losses = run.batches.batch, run.record, []

    def stopping(step):
        if steps == step + 1 and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(step)

    def recording(result, *rest, **how):
        losses.append(result.loss)
        record(result, *rest, **how)

    run.batches.batch, run.record = stopping, recording
    if steps is None:
        fit(run)
    else:
        with pytest.raises(Interrupted):
            fit(run)
        assert run.step == steps
    run.tracker.writer.close()
    state = state_of(run)
    del state["random"]
    return {**state, "losses": losses[-1]}


def assert_close(a, b, where=""):
    """Equal to the rounding of float64, all the way down."""
    if isinstance(a, torch.Tensor) and a.is_floating_point():
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda text: f"{where}: {text}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_close(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_close(left, right, f"{where}[{i}]")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-6), where  # a loss travels in float32 where a network is
    else:
        assert_same(a, b, where)


def alone(settings, folder):
    return trained(SINGLE, settings, folder)


@pytest.mark.parametrize(("number", "name"), [(2, "sgd"), (2, "adamw-ema-clipped"), (4, "fair"), (2, "learned")])
def test_n_ranks_train_as_one_process_does(tmp_path, float64, monkeypatch, name, number):
    monkeypatch.setattr(GradientExchange, "message_bytes", 10_000)  # several leave in the backward pass
    settings = tiny(WITHOUT_BATCHNORM[name])
    found = together(number, trained, tmp_path, settings, tmp_path / "together")
    for other in found[1:]:
        assert_same({**found[0], "counts": None}, {**other, "counts": None})
    assert_close(found[0], alone(settings, tmp_path / "alone"))


@pytest.mark.parametrize("settings", [SYNC, SYNC_LEARNED], ids=["fair", "learned"])
def test_synchronised_batchnorm_is_that_of_one_process(tmp_path, float64, settings):
    settings = tiny(settings)
    found = together(2, trained, tmp_path, settings, tmp_path / "together")
    assert_same(found[0]["model"], found[1]["model"])
    assert_close(found[0], alone(settings, tmp_path / "alone"))


def test_local_batchnorm_differs_in_statistics_but_not_weights(tmp_path, float64):
    settings = tiny(replace(SYNC, dist=DistSettings()))
    first, second = (found["model"] for found in together(2, trained, tmp_path, settings, tmp_path / "together"))
    one = alone(settings, tmp_path / "alone")["model"]
    running = {name for name in first if "running_" in name}
    weights = first.keys() - running
    assert running
    assert_same({name: first[name] for name in weights}, {name: second[name] for name in weights})
    assert any(not torch.equal(first[name], second[name]) for name in running)
    assert any(not torch.allclose(first[name], one[name], rtol=1e-3) for name in weights)


OWN = {"augment": ["support.plugins:augment", "trivial"]}


@pytest.mark.parametrize("how", [{}, OWN, MIXED, MIXED | OWN], ids=["plain", "own", "mixed", "own-mixed"])
def test_the_ranks_parts_make_up_the_whole_batch(how, tmp_path):
    settings = tiny(PLAIN)
    settings = replace(settings, data=replace(settings.data, image_size=17, flip=True, cutout=6, **how))
    run = Run(settings, tmp_path)
    how = (run.splits.train, run.splits.mean, run.splits.std, settings.data, 8, settings.seed)
    whole, parts = Batches(*how), [Batches(*how, part=(rank, 4)) for rank in range(4)]
    assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch}
    for step in range(2 * whole.steps_per_epoch):
        x, y = whole.batch(step)
        made = [part.batch(step) for part in parts]
        assert torch.equal(torch.cat([x for x, _ in made]), x)
        assert torch.equal(torch.cat([y for _, y in made]), y)
    run.tracker.writer.close()


# ------------------------------------------------------------------------------------------------ going on


def test_two_rank_runs_resume_on_one_or_four(tmp_path, float64):
    settings = tiny(WITHOUT_BATCHNORM["adamw-ema-clipped"])
    one = alone(settings, tmp_path / "alone")
    together(2, trained, tmp_path, settings, tmp_path / "two", 11)
    assert (tmp_path / "two" / "step_000000011.safetensors").is_file()  # the end of the first of two epochs
    for number in (1, 4):
        shutil.copytree(tmp_path / "two", tmp_path / str(number))
        assert_close(together(number, trained, tmp_path, settings, tmp_path / str(number))[0], one, f"on {number}")


def test_an_interrupted_two_rank_run_goes_on_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(GradientExchange, "message_bytes", 500)
    settings = tiny(TrainRunSettings(space=CHAIN, gate=LearnedGateSettings(every=3)), save_every=7)
    undisturbed = together(2, trained, tmp_path, settings, tmp_path / "undisturbed")
    together(2, trained, tmp_path, settings, tmp_path / "stopped", 7)
    resumed = together(2, trained, tmp_path, settings, tmp_path / "stopped")
    assert_same(resumed[0], undisturbed[0])
    (_, left), (_, right) = resumed, undisturbed  # statistics of rank 1 are its own
    weights = [{k: v for k, v in found["model"].items() if "running_" not in k} for found in (left, right)]
    assert_same(*weights)
