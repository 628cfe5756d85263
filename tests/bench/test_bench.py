"""The benchmark measures what it says."""

import itertools

import pytest
import torch

from nas.bench import interleave, loop
from nas.bench.gating import plain_step, standalone_two_branch, with_weights_of
from nas.bench.gating_suite import gating_suite, gating_table
from nas.errors import SettingError
from nas.settings import BenchSettings, ChainSettings, TwoBranchSettings
from nas.space import build_space
from nas.train import Run, TrainStep


def test_ratios_are_against_the_same_rounds_baseline(monkeypatch):
    now = itertools.count()
    clock = {"value": 0.0, "speed": 1.0}

    def work(seconds):
        clock["value"] += seconds * (1 + next(now) // 6)  # the machine gets slower from round to round

    monkeypatch.setattr("nas.bench.compare.perf_counter", lambda: clock["value"])
    found = interleave("base", {"base": lambda: work(2), "twice": lambda: work(4)}, rounds=9, calls=1)
    assert found["base"].median == 1
    assert found["twice"].low <= found["twice"].median <= found["twice"].high
    assert found["twice"].median == pytest.approx(2, rel=0.25)


def test_what_comes_before_a_turn_is_untimed(monkeypatch):
    clock, ready = [0.0], []

    def before():
        clock[0] += 100
        ready[:] = range(4)

    def call():
        clock[0] += 1
        ready.pop()

    monkeypatch.setattr("nas.bench.compare.perf_counter", lambda: clock[0])
    found = interleave("base", {"base": call, "same": call}, rounds=3, calls=3, before=before)
    assert (found["same"].median, found["base"].ms) == (1, 1000)


def test_what_a_gpu_does_is_waited_for(monkeypatch):
    clock, queued = [0.0], []
    monkeypatch.setattr("nas.bench.compare.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    def synchronize():
        clock[0] += sum(queued)
        queued.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    found = interleave("base", {"base": lambda: queued.append(2), "twice": lambda: queued.append(4)}, rounds=3)
    assert (found["twice"].median, found["base"].ms) == (2, 2000)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"^device=cuda: there is none on this machine; write device=cpu$"):
        gating_suite(BenchSettings(device="cuda"), lambda what: None)
    with pytest.raises(
        SettingError, match=r"^device=cuda: is for suite=gating and suite=fast; add suite=gating, or leave it out$"
    ):
        BenchSettings(suite="jac", device="cuda")


def test_the_baseline_computes_what_the_subnetwork_computes():
    space = build_space(TwoBranchSettings())
    x = torch.randn(4, 3, 32, 32)
    by_hand = with_weights_of(standalone_two_branch(), space.subnet((0,)))
    assert torch.equal(by_hand(x), space.supernet()(x, (0,)))
    assert plain_step(by_hand, x, torch.tensor([0, 1, 2, 3]))() > 0


def test_loop_and_bare_steps_take_the_same_paths(monkeypatch):
    ran, recorded, step, record = [], [], TrainStep.__call__, Run.record

    def noted_step(self, batch, paths, *more):
        ran.append(paths)
        return step(self, batch, paths, *more)

    def noted_record(self, *figures, **more):
        recorded.append(self.silent)
        record(self, *figures, **more)

    monkeypatch.setattr(loop, "STEPS", 3)
    monkeypatch.setattr(TrainStep, "__call__", noted_step)
    monkeypatch.setattr(Run, "record", noted_record)
    found = loop.whole_loop(ChainSettings(widths=[4], depths=[2], strides=[1]), rounds=3, threads=1)
    turns = {tuple(ran[i : i + 3]) for i in range(0, len(ran), 3)}
    assert len(ran) == 3 * 3 * 7  # of three ways, each once before the rounds and twice in each
    assert len(turns) == 1
    assert recorded == [False] * 21  # the silent way keeps no account
    assert found[loop.LOOP].median > 0
    assert found[loop.LOGGING].rounds == 3


@pytest.mark.speed
def test_the_suite_prints_a_table():
    result = gating_suite(BenchSettings(rounds=3), lambda what: None)
    barred = [row for row in result["rows"] if row["bars"]]
    shown = len(gating_table(result).rows)
    assert shown == len(result["rows"]) + len(barred) + 4  # bars, and a heading for each network
