"""Optimizers, schedules, losses and augmentations of a user's own keep the laws of a run."""

import copy
from dataclasses import replace

import pytest
import torch
from support.plugins import Lion, no_decay_of_vectors
from support.plugins import loss as own_loss
from support.runs import CHAIN, assert_same, finish, state_of, stop_after, tiny

from nas.data import load_splits
from nas.errors import CheckpointError, SettingError
from nas.settings import CustomOptimizerSettings, TrainSettings
from nas.signals import Interrupted
from nas.space import build_space, extract
from nas.train import GatedOptimizer, Loss, Run, TrainStep, fit, train_from_scratch
from nas.train.schedule import learning_rate

NAMES = ["Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop"]
KWARGS = {"ASGD": {"t0": 2}, "RMSprop": {"momentum": 0.9, "centered": True}, "SGD": {"momentum": 0.9}}
OWN = {f"torch.optim:{name}": KWARGS.get(name, {}) for name in [*NAMES, "SGD"]}
OWN |= {"support.plugins:Lion": {"decay": 0.3}, "support.plugins:no_decay_of_vectors": {"decay": 0.3}}
PARTS = {"schedule": "support.plugins:schedule", "loss": "support.plugins:loss", "clip_norm": 1.0, "ema_decay": 0.9}
X, Y = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])


def own(name="support.plugins:Lion", lr=0.01, **kwargs):
    return CustomOptimizerSettings(factory=name, lr=lr, kwargs=kwargs)


def with_own_parts():
    settings = tiny(**PARTS)
    data = replace(settings.data, augment="support.plugins:augment")
    track = replace(settings.track, writers=[])
    return replace(settings, data=data, optimizer=own(decay=0.2), track=track)


@pytest.mark.parametrize("name", OWN)
def test_an_own_optimizer_knows_open_branches_alone(name):
    """As in the subnetwork by itself; and its state comes back to the last bit."""
    space = build_space(CHAIN, image_size=16, classes=3)
    supernet = space.supernet().train()
    alone = copy.deepcopy(extract(supernet, (2, 2)))
    before = copy.deepcopy(supernet.state_dict())
    factory = {"Lion": Lion, "no_decay_of_vectors": no_decay_of_vectors}.get(name.split(":")[1])
    kwargs = OWN[name]
    stock = (factory or getattr(torch.optim, name.split(":")[1]))([*alone.parameters()], lr=0.01, **kwargs)
    rates = [group["lr"] / 0.01 for group in stock.param_groups]
    settings = own(name, **kwargs)
    gated, lr = GatedOptimizer(supernet, settings), 0.01
    for step in range(5):
        lr = 0.01 / (1 + step)
        TrainStep(supernet, gated)((X, Y), [(2, 2)], lr)
        stock.zero_grad()
        torch.nn.functional.cross_entropy(alone(X), Y).backward()
        for group, rate in zip(stock.param_groups, rates, strict=True):
            group["lr"] = lr * rate
        stock.step()
        if step == 2:
            again = copy.deepcopy(supernet)
            loaded = GatedOptimizer(again, settings)
            loaded.load_state_dict({name: value.clone() for name, value in gated.state_dict().items()})
        elif step > 2:
            TrainStep(again, loaded)((X, Y), [(2, 2)], lr)
    torch.testing.assert_close({k: supernet.state_dict()[k] for k in alone.state_dict()}, dict(alone.state_dict()))
    assert_same(again.state_dict(), supernet.state_dict())
    assert_same(loaded.state_dict(), gated.state_dict())
    closed = {key for key in before if ".branches.1." in key}
    moved = {key for key, value in supernet.state_dict().items() if not torch.equal(value, before[key])}
    assert closed
    assert not moved & closed
    assert moved >= {key for key, _ in alone.named_parameters()}


def test_a_resumed_run_with_own_parts_equals_uninterrupted_run(tmp_path):
    settings = with_own_parts()
    whole = state_of(finish(settings, tmp_path / "whole"))
    assert any(name.startswith("number:steps/") for name in whole["optimizer"])
    run = Run(settings, tmp_path / "stopped")
    stop_after(run, 7)
    with pytest.raises(Interrupted):
        fit(run)
    run.tracker.writer.close()
    torch.rand(3)  # what an augmentation draws without a generator depends on nothing before it
    assert_same(state_of(finish(settings, tmp_path / "stopped")), whole)
    changed = r"optimizer.factory: support.plugins:Lion -> torch.optim:Adam.*train.loss: support.plugins:loss -> cross_"
    other = replace(settings, optimizer=own("torch.optim:Adam"), train=replace(settings.train, loss="cross_entropy"))
    with pytest.raises(CheckpointError, match=changed):
        Run(other, tmp_path / "whole")


def test_training_from_scratch_takes_own_parts():
    settings = replace(with_own_parts(), train=replace(with_own_parts().train, epochs=1))
    splits = load_splits(settings.data, settings.seed)
    space, found = build_space(settings.space, *splits.sizes), set()
    for change in ({}, {"loss": "cross_entropy"}, {"schedule": "constant"}, {"augment": ""}):
        data = replace(settings.data, **change) if "augment" in change else settings.data
        train = settings.train if "augment" in change else replace(settings.train, **change)
        found.add(train_from_scratch(replace(settings, data=data, train=train), space, splits, (1, 2)).loss)
    assert len(found) == 4


@pytest.mark.parametrize(("kwargs", "device"), [({"capturable": True}, "meta"), ({}, "cpu")])
def test_adams_counter_comes_back_to_its_device(kwargs, device):
    with torch.device("meta"):  # stands for a GPU
        gated = GatedOptimizer(torch.nn.Linear(2, 1), own("torch.optim:AdamW", **kwargs))
    values = torch.ones(1, 2)
    gated.load_state_dict({"step/weight": torch.tensor(3.0), "exp_avg/weight": values, "exp_avg_sq/weight": values})
    (state,) = gated.optimizer.state.values()
    assert state["step"].device.type == device
    assert state["exp_avg"].device.type == "meta"


def test_an_own_schedule_gives_factors_of_the_peak():
    train = TrainSettings(schedule="support.plugins:schedule")
    assert [learning_rate(train, 0.5, step, 4, 2) for step in range(4)] == [0.5, 0.375, 0.25, 0.125]
    bad = TrainSettings(schedule="support.plugins:sinking")
    with pytest.raises(SettingError, match=r"^train.schedule=.*: gave -1.5 at step 2 of 4, .*; return a factor"):
        learning_rate(bad, 0.5, 2, 4, 2)


def test_an_own_loss_is_what_a_step_lowers():
    supernet = build_space(CHAIN, image_size=16, classes=3).supernet().eval()
    found, logits = Loss(own="support.plugins:loss")(supernet, X, Y, (1, 1))
    assert torch.equal(found, own_loss(logits, Y))
    wrong = {"loss_each": r"of shape \(4,\),", "loss_without_gradient": r"of shape \(\) without a gradient,"}
    for name, words in wrong.items():
        with pytest.raises(SettingError, match=rf"^train.loss=.*:{name}: gave a tensor {words} and must give a scalar"):
            Loss(own=f"support.plugins:{name}")(supernet, X, Y, (1, 1))
    with pytest.raises(SettingError, match=r"^train.label_smoothing=0.1: is for train.loss=cross_entropy; leave"):
        TrainSettings(loss="support.plugins:loss", label_smoothing=0.1)


REFUSED = {
    "torch.optim:LBFGS": "computes the loss again in its step",
    "support.plugins:half": "was given [0-9]+ parameters, and updates 1",
    "support.plugins:schedule": "cannot be called with these .*missing",
    "support.runs:RUNS": "is of the type dict, which cannot be called; name a class",
    "support.plugins:Nothing": "support.plugins has no Nothing",
    "support.plugins:nothing": "gave a NoneType, not an optimizer",
    "support.plugins:Counts": "changes its calls in a step",
    "support.plugins:Listed": "its state 'seen' is a list, and a checkpoint holds",
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unfit_optimizer_is_one_line(name):
    supernet = build_space(CHAIN, image_size=16, classes=3).supernet()
    with pytest.raises(SettingError, match=REFUSED[name]) as caught:
        TrainStep(supernet, GatedOptimizer(supernet, own(name)))((X, Y), [(1, 1)], 0.01)
    assert caught.value.remedy
    twice = r"^optimizer.kwargs=.'lr': 1.: .* \(lr is given beside them\)"
    with pytest.raises(SettingError, match=twice):
        GatedOptimizer(supernet, CustomOptimizerSettings(factory="torch.optim:Adam", kwargs={"lr": 1}))
