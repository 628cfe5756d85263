"""What a path costs is what all paths share plus what its choices add."""

import pytest
import torch
from support.references import unchanged
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.cost import FlopCounter, PathFlops, count_flops
from nas.settings import ChainSettings, TwoBranchSettings
from nas.space import build_space

CANDIDATES = ["conv3", "skip", "sep5", "mb2_k3", "max_pool3"]


def small_chain(merge, candidates=CANDIDATES):
    settings = ChainSettings(widths=[4, 6], depths=[1, 2], strides=[1, 2], candidates=candidates, merge=merge)
    space = build_space(settings, image_size=16)
    return space, space.supernet()


def test_counts_equal_those_of_torchs_own_counter():
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    networks = [
        (nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, groups=4)), (3, 9, 9)),
        (nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Conv2d(3, 1, 1), nn.Flatten(), nn.LazyLinear(4)), (2, 4, 4)),
        (nn.Sequential(nn.Unflatten(1, (5, 8)), attention, nn.Linear(8, 3)), (40,)),
    ]
    for network, shape in networks:
        network(torch.zeros(1, *shape))  # lazy layers take their shapes
        with torch.no_grad():
            for batch in (1, 3):
                with FlopCounter() as ours:
                    network(torch.zeros(batch, *shape))
                with FlopCounterMode(display=False) as theirs:
                    network(torch.zeros(batch, *shape))
                assert ours.total == theirs.get_total_flops() > 0, network
    _, supernet = small_chain("concat")
    for architecture in ((0, 0, 0), (3, (1, 2), 4)):
        with FlopCounterMode(display=False) as theirs, torch.no_grad():
            supernet.eval()(torch.zeros(1, 3, 16, 16), architecture)
        assert count_flops(supernet, architecture, (3, 16, 16)) == theirs.get_total_flops()


def test_added_flops_equal_counted_flops():
    for merge in ("sum", "concat"):
        space, supernet = small_chain(merge, CANDIDATES[1:4])
        with unchanged(supernet):
            flops = PathFlops(space, supernet, (3, 16, 16))
        everything = tuple((0, 1, 2) for _ in space.slots)
        assert flops.skipped_share(everything) == 0
        costs, whole = set(), count_flops(supernet.eval(), everything, (3, 16, 16))
        for architecture in [*space.enumerate(), ((0, 2), 1, (0, 1))]:
            spent = count_flops(supernet, architecture, (3, 16, 16))
            assert flops(architecture) == spent, (merge, architecture)
            assert flops.skipped_share(architecture) == pytest.approx(1 - spent / whole)
            costs.add(spent)
        assert len(costs) > 10
        assert flops(((0, 2), 1, (0, 1))) > flops((0, 1, 1))


def test_flops_are_two_for_each_multiply_accumulate():
    branch = 28 * 28 * 6 * 3 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120
    rest = 120 * 84 + 84 * 10
    for branches in (2, 4, 16):
        space = build_space(TwoBranchSettings(branches=branches))
        flops = PathFlops(space, space.supernet(), (3, 32, 32))
        assert flops((1,)) == 2 * (branch + rest)
        skipped = (branches - 1) * branch / (branches * branch + rest)
        assert flops.skipped_share((0,)) == pytest.approx(skipped), "K equal branches skip K - 1 of them"


def test_a_network_without_flops_skips_nothing():
    class Nothing(nn.Module):
        def forward(self, x, architecture):
            return x.mean(dim=(2, 3))

    flops = PathFlops(build_space(TwoBranchSettings()), Nothing(), (3, 8, 8))
    assert flops((0,)) == 0
    assert flops.skipped_share((1,)) == 0.0
