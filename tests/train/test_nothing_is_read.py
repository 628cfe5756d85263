"""Between two logs a step reads nothing back, and a loss that is not finite holds back all that follows."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from support.runs import CHAIN, RUNS, assert_same, tiny

from nas import checkpoint
from nas.eager import EagerDispatchMode
from nas.errors import DivergedError
from nas.settings import AdamWSettings, CustomOptimizerSettings, LearnedGateSettings, SGDSettings, TrainRunSettings
from nas.train import Run, fit

ON_THE_HOST = ("nas.gate", "nas.data", "nas.seeds")
"""What draws numbers on the CPU, wherever the network is."""


class Reads(EagerDispatchMode):
    """Notes who reads a tensor's values, in the words of the innermost function of ours."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.seen = []
        for name in ("tolist", "numpy"):  # which do not pass through the dispatcher
            real = getattr(torch.Tensor, name)
            monkeypatch.setattr(torch.Tensor, name, lambda *args, real=real: self.note() or real(*args))

    def note(self):
        frame = sys._getframe(1)
        while not frame.f_globals.get("__name__", "").startswith("nas.") or "nas.eager" in frame.f_globals["__name__"]:
            frame = frame.f_back
        if not frame.f_globals["__name__"].startswith(ON_THE_HOST):
            self.seen.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        from_gpu = isinstance(found, torch.Tensor) and found.device.type == "cpu"
        if func is torch.ops.aten._local_scalar_dense.default or (
            from_gpu and any(isinstance(x, torch.Tensor) and x.device.type != "cpu" for x in args)
        ):
            self.note()
        return found


@pytest.mark.parametrize("name", ["two_branch-uniform-sgd", "chain-fair-adamw-ema"])
def test_nothing_is_read_between_two_logs(tmp_path, monkeypatch, name):
    settings = tiny(RUNS[name], epochs=1)
    run = Run(replace(settings, track=replace(settings.track, writers=[])), tmp_path)
    reads, told = Reads(monkeypatch), []
    for due in ("log", "validate", "save"):

        def quiet(*args, due=due):
            before = len(reads.seen)
            getattr(Run, due)(run, *args)
            told.append(reads.seen[before:])
            del reads.seen[before:]

        monkeypatch.setattr(run, due, quiet)
    with reads:
        fit(run)
    assert reads.seen == []
    assert sum(seen.count("nas.train.result.read_steps") for seen in told) == 3  # at the steps 4, 8 and 11


PLANTED = 5
"""The step whose loss is not finite, between the logs at 4 and at 8."""
OWN = CustomOptimizerSettings(factory="support.plugins:Lion", lr=0.01)


@pytest.mark.parametrize(
    ("optimizer", "value"), [(SGDSettings(nesterov=True), math.inf), (AdamWSettings(), math.nan), (OWN, math.nan)]
)
def test_a_non_finite_loss_holds_back_all_that_follows(tmp_path, optimizer, value):
    settings = replace(tiny(ema_decay=0.3, clip_norm=1.0), optimizer=optimizer)
    before, run = Run(settings, tmp_path / "before"), Run(settings, tmp_path / "run")
    fit(before, until=PLANTED)
    path, lr = before.paths()[0][0], before.learning_rate()
    compute = run.train_step.loss_fn

    def planted(*args):
        loss, logits = compute(*args)
        return loss * (value if run.step == PLANTED else 1.0), logits

    object.__setattr__(run.train_step, "loss_fn", planted)
    with pytest.raises(DivergedError) as told:
        fit(run)
    assert run.step == 8
    assert str(told.value).startswith(f"optimizer.lr={lr:.3g}: the loss is {value} at step 5 on path {path}; ")
    assert_same(dict(run.supernet.named_parameters()), dict(before.supernet.named_parameters()))
    was, now = before.optimizer.state_dict(), run.optimizer.state_dict()
    assert_same({key: now[key] for key in was}, was)
    assert not any(now[key].any() for key in now.keys() - was.keys()), "moments that a held step has begun are 0"
    assert not checkpoint.saved(tmp_path / "run")
    with pytest.raises(DivergedError):
        run.save()


def test_the_first_loss_that_is_not_finite_is_told(tmp_path):
    """Not the one of a learned gate's comparison, which is read at once."""
    run = Run(tiny(TrainRunSettings(space=CHAIN, gate=LearnedGateSettings(every=1, warmup=0.0))), tmp_path)
    rate = run.learning_rate

    def planted():
        if run.step == 2:
            with torch.no_grad():
                next(run.supernet.parameters()).fill_(math.nan)
        return rate()

    run.learning_rate = planted
    with pytest.raises(DivergedError, match=r"optimizer\.lr=.*: the loss is nan at step 2"):
        fit(run)
