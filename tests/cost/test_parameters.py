"""Parameters of paths: what all paths share plus what their choices add."""

import pytest
import torch
from support.references import ModuleSpace, Slots, unchanged
from torch import nn

from nas.cost import PathCost, PathFlops, PathParameters, count_parameters
from nas.errors import SpaceError
from nas.nn import BlockLinear, GatedConcat, GatedSum
from nas.settings import CellSettings, ChainSettings, MacroSettings, TwoBranchSettings
from nas.space import build_space, extract

CHAIN = {
    "widths": [4, 6],
    "depths": [1, 2],
    "strides": [1, 2],
    "candidates": ["conv3", "skip", "sep5", "mb2_k3", "max_pool3"],
}
SPACES = {
    "two_branch": TwoBranchSettings(branches=3),
    "chain of sums": ChainSettings(**CHAIN),
    "chain of concatenations": ChainSettings(**CHAIN, merge="concat"),
    "macro": MacroSettings(),
    "cell": CellSettings(cells=1, width=4),
}


def of(name):
    space = build_space(SPACES[name], image_size=16)
    return space, space.supernet()


class Custom(nn.Module):
    """Branches of several widths, a consumer with a weight for each, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Linear(100, 100)
        self.left = GatedSum([nn.Conv2d(3, 3, k, padding=k // 2) for k in (1, 3, 5)])
        self.right = GatedConcat([nn.Conv2d(3, w, 1) for w in (1, 2, 7)], [1, 2, 7])
        self.head = BlockLinear(3, [1, 2, 7], 4)

    def forward(self, x, architecture):
        x = self.left(self.twice(self.twice(x)), architecture[0])
        return self.head(self.right(x, architecture[1]).map(lambda t: t.mean(dim=(2, 3))))


def test_added_parameters_are_those_of_the_extracted_network():
    for name in SPACES:
        space, supernet = of(name)
        with unchanged(supernet):
            parameters, found = PathParameters(space, supernet), set()
        several = tuple((0, 2) for _ in space.slots)
        sampled = space.sample_many(4, torch.Generator().manual_seed(0))
        for architecture in [*sampled, tuple(2 for _ in space.slots), several]:
            counted = count_parameters(extract(supernet, architecture))
            assert parameters(architecture) == counted, (name, architecture)
            found.add(counted)
        assert len(found) > (3 if len(space.slots) > 1 else 1), name


def test_a_users_network_is_counted_alike():
    space = ModuleSpace(Custom)
    parameters = PathParameters(space, space.supernet())
    for architecture in space.enumerate():
        kernel, width = (1, 3, 5)[architecture[0]], (1, 2, 7)[architecture[1]]
        branches = 3 * 3 * kernel**2 + 3 + 3 * width + width
        assert parameters(architecture) == (3 * 3 * 9 + 3) + branches + (4 * width + 4)
    layer = nn.Linear(3, 5)
    assert count_parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 20


class Masked(Slots):
    """Behind choice 0 of the first slot the others compute nothing; the last two slots may change places."""

    def canonical(self, architecture):
        return (architecture[0], *sorted(architecture[1:])) if architecture[0] else (0, 0, 0)


class Weighed(PathCost):
    counted = 0

    def count(self, architecture):
        self.counted += 1
        first, *rest = architecture
        return 7 + (10 * first + sum((0, 1, 5)[choice] for choice in rest) if first else 0)


def test_costs_add_up_over_canonical_forms():
    space = Masked(3, 3, 3)
    cost = Weighed(space)
    cost((0, 0, 0))
    assert cost.counted == 1 + 3 * 2
    found = {architecture: cost(architecture) for architecture in space.enumerate()}
    assert cost.counted == 1 + 3 * 2, "the others are added up"
    assert found == {a: cost.count(space.canonical(a)) for a in found}
    assert (cost.smallest(), cost.largest()) == (((0, 0, 0), 7), ((2, 2, 2), 37))


def test_slots_that_share_parameters_are_refused():
    def shared():
        net = Custom()
        net.left.branches[2] = net.right.branches[1]
        return net

    space = ModuleSpace(shared)
    with pytest.raises(SpaceError, match=r"slot=right: shares parameters with slot left, so that they do not add up; "):
        PathParameters(space, space.supernet())


def test_the_extremes_are_those_of_all_architectures():
    for name in ("two_branch", "chain of sums", "chain of concatenations"):
        space, supernet = of(name)
        for cost in (PathParameters(space, supernet), PathFlops(space, supernet, (3, 16, 16))):
            values = [cost(architecture) for architecture in space.enumerate()]
            for (architecture, value), extreme in ((cost.smallest(), min(values)), (cost.largest(), max(values))):
                assert value == cost(architecture) == extreme, (name, cost)
    wide = build_space(SPACES["macro"])
    assert PathParameters(wide, wide.supernet()).smallest() == ((0,) * 8, 387_882)  # as published
