"""The benchmark measures what it says."""

import itertools

import pytest

from nas.bench import interleave
from nas.bench.gating import plain_step, standalone_two_branch, with_weights_of
from nas.bench.gating_suite import gating_suite, gating_table
from nas.settings import TwoBranchSettings
from nas.space import build_space


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


def test_the_baseline_computes_what_the_subnetwork_computes():
    import torch

    space = build_space(TwoBranchSettings())
    x = torch.randn(4, 3, 32, 32)
    by_hand = with_weights_of(standalone_two_branch(), space.subnet((0,)))
    assert torch.equal(by_hand(x), space.supernet()(x, (0,)))
    assert plain_step(by_hand, x, torch.tensor([0, 1, 2, 3]))() > 0


@pytest.mark.speed
def test_the_suite_prints_a_table():
    result = gating_suite(3, 1, lambda what: None)
    barred = [row for row in result["rows"] if row["bars"]]
    shown = len(gating_table(result).rows)
    assert shown == len(result["rows"]) + len(barred) + 4  # bars, and a heading for each network
