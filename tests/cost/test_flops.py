"""What a path costs is what all paths share plus what its choices add."""

import copy

import pytest
import torch
from torch import nn

from nas.cost import PathFlops, count_flops
from nas.settings import ChainSettings, TwoBranchSettings
from nas.space import build_space

CANDIDATES = ["conv3", "skip", "sep5", "mb2_k3", "max_pool3"]


def small_chain(merge):
    settings = ChainSettings(widths=[4, 6], depths=[1, 2], strides=[1, 2], candidates=CANDIDATES, merge=merge)
    space = build_space(settings, image_size=16)
    return space, space.supernet()


@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_added_flops_equal_counted_flops_for_every_architecture(merge):
    space, supernet = small_chain(merge)
    flops = PathFlops(space, supernet, (3, 16, 16))
    costs = [flops(architecture) for architecture in space.enumerate()]
    assert costs == [count_flops(supernet.eval(), architecture, (3, 16, 16)) for architecture in space.enumerate()]
    assert len(set(costs)) > 30


def test_flops_are_two_for_each_multiply_accumulate():
    space = build_space(TwoBranchSettings(branches=2))
    macs = 28 * 28 * 6 * 3 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    assert PathFlops(space, space.supernet(), (3, 32, 32))((1,)) == 2 * macs


def test_several_open_gates_are_counted_by_running_them():
    space, supernet = small_chain("sum")
    flops, architecture = PathFlops(space, supernet, (3, 16, 16)), ((0, 2), 3, (0, 1, 3))
    assert flops(architecture) == count_flops(supernet.eval(), architecture, (3, 16, 16))
    assert flops(architecture) > flops((0, 3, 3))


@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_skipped_share_is_what_the_closed_branches_would_cost(merge):
    space, supernet = small_chain(merge)
    flops = PathFlops(space, supernet, (3, 16, 16))
    everything = tuple(tuple(range(len(CANDIDATES))) for _ in space.slots)
    assert flops.skipped_share(everything) == 0
    for architecture in ((0, 0, 0), (3, 3, 3), ((0, 1), 2, 4)):
        spent = count_flops(supernet.eval(), architecture, (3, 16, 16))
        whole = count_flops(supernet, everything, (3, 16, 16))
        assert flops.skipped_share(architecture) == pytest.approx(1 - spent / whole)


def test_k_equal_branches_skip_k_minus_one_of_them():
    for branches in (2, 4, 16):
        space = build_space(TwoBranchSettings(branches=branches))
        branch = 2 * (28 * 28 * 6 * 3 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120)
        rest = 2 * (120 * 84 + 84 * 10)
        share = PathFlops(space, space.supernet(), (3, 32, 32)).skipped_share((0,))
        assert share == pytest.approx((branches - 1) * branch / (branches * branch + rest))


def test_a_network_without_flops_skips_nothing():
    class Nothing(nn.Module):
        def forward(self, x, architecture):
            return x.mean(dim=(2, 3))

    flops = PathFlops(build_space(TwoBranchSettings()), Nothing(), (3, 8, 8))
    assert flops((0,)) == 0
    assert flops.skipped_share((1,)) == 0.0


def test_counting_leaves_the_supernet_as_it_was():
    space, supernet = small_chain("concat")
    before = copy.deepcopy(supernet.state_dict())
    PathFlops(space, supernet, (3, 16, 16))((0, 1, 2))
    assert supernet.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
