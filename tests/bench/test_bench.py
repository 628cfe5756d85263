"""The benchmark measures what it says."""

import time

import pytest

from nas.bench import interleave
from nas.bench.gating import plain_step, standalone_two_branch, with_weights_of
from nas.bench.gating_suite import gating_suite, gating_table
from nas.settings import TwoBranchSettings
from nas.space import build_space


def test_ratios_are_against_the_baseline_of_the_same_round():
    variants = {"base": lambda: time.sleep(0.002), "twice": lambda: time.sleep(0.004)}
    found = interleave("base", variants, rounds=9, calls=1)
    assert found["base"].median == 1
    assert found["twice"].median == pytest.approx(2, rel=0.25)
    assert found["twice"].low <= found["twice"].median <= found["twice"].high


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
    assert shown == len(result["rows"]) + len(barred) + 3  # bars, and a heading for each network
