"""Closed branches are neither called nor differentiated; zeros stand in their place."""

import pytest
import torch
from torch import nn

from nas.errors import ArchitectureError, SpaceError
from nas.nn import (
    BlockConv2d,
    BlockLinear,
    GatedConcat,
    GatedSum,
    active_of,
    gated_blocks,
    indices_of,
    open_branches,
)

WIDTHS = (2, 5, 3)


class Watched(nn.Sequential):
    """Notes on which device it is called."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.calls = []

    def forward(self, x):
        self.calls.append(x.device.type)
        return super().forward(x)


def convolutions(widths=WIDTHS):
    return [Watched(nn.Conv2d(3, w, 3), nn.BatchNorm2d(w), nn.ReLU(), nn.Dropout(0.3)) for w in widths]


def picture(batch=2):
    return torch.randn(batch, 3, 6, 6)


class Net(nn.Module):
    """A concatenation of unequal widths with a zero-aware layer behind it, then a sum."""

    def __init__(self):
        super().__init__()
        self.mix = GatedConcat([nn.Sequential(nn.Conv2d(3, w, 3), nn.BatchNorm2d(w)) for w in WIDTHS])
        self.project = BlockConv2d(3, WIDTHS, 4, 1)
        self.sum = GatedSum([nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3, 5)])
        self.head = nn.Linear(4, 2)

    def forward(self, x, architecture):
        z = self.mix(x, architecture[0]).map(torch.relu)
        return self.head(self.sum(self.project(z), architecture[1]).mean(dim=(2, 3)))


def closed_parameters(net, architecture):
    """Names of what the architecture does not name: branches, and the consumer's weights of their slots."""
    open0, open1 = (open_branches(entry, 3) for entry in architecture)
    closed = [f"mix.branches.{i}." for i in range(3) if i not in open0]
    closed += [f"project.weights.{i}" for i in range(3) if i not in open0]
    closed += [f"sum.branches.{i}." for i in range(3) if i not in open1]
    return {name for name, _ in net.named_parameters() if name.startswith(tuple(closed))}


PATHS = [(0, 0), (1, 2), (2, 1), ((0, 2), 1), (1, (0, 1)), ((0, 1, 2), (0, 1, 2))]


@pytest.mark.parametrize("architecture", PATHS)
def test_closed_branches_are_neither_called_nor_differentiated(architecture):
    net = Net()
    ran = []
    for name, block in gated_blocks(net).items():
        for index, branch in enumerate(block.branches):
            branch.register_forward_hook(lambda *_, key=(name, index): ran.append(key))
            branch.register_full_backward_pre_hook(lambda *_, key=(name, index): ran.append(key))
    net(picture(), architecture).sum().backward()
    named = [
        (name, i) for name, entry in zip(("mix", "sum"), architecture, strict=True) for i in open_branches(entry, 3)
    ]
    assert sorted(ran) == sorted(2 * named)  # once forward, once backward
    without = {name for name, p in net.named_parameters() if p.grad is None}
    assert without == closed_parameters(net, architecture)

    net, x = Net().eval().double(), picture().double()
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (x, architecture)))(parameters)
    zero = {name for name, block in jacobian.items() if not block.count_nonzero()}
    assert zero == closed_parameters(net, architecture)


@pytest.mark.parametrize("active", [0, 1, 2, (0, 2), (0, 1), (1, 2), (0, 1, 2)])
def test_dense_holds_open_branches_and_zeros(active):
    mix, x = GatedConcat(convolutions()).eval().double(), picture(1).double()
    z = mix(x, active)
    assert z.widths == WIDTHS
    jacobian = torch.func.jacrev(lambda x: mix(x, active).dense())(x)  # (1, 10, 4, 4, 1, 3, 6, 6)
    parts = z.dense().split(WIDTHS, dim=1), jacobian.split(WIDTHS, dim=1)
    for slot, (part, derivative) in enumerate(zip(*parts, strict=True)):
        opened = slot in open_branches(active, 3)
        assert torch.equal(part, mix.branches[slot](x) if opened else torch.zeros_like(part))
        assert bool(derivative.count_nonzero()) == opened


def test_a_sum_adds_the_open_branches():
    block, x = GatedSum(convolutions((4, 4, 4))).eval(), picture()
    each = [branch(x) for branch in block.branches]
    for index in range(3):
        assert torch.equal(block(x, index), each[index])
        assert torch.equal(block(x, (index,)), each[index])
    assert torch.equal(block(x, (0, 1)), each[0] + each[1])
    assert torch.equal(block(x, (2, 0)), each[0] + each[2])
    torch.testing.assert_close(block(x, (0, 1, 2)), sum(each))


def test_two_open_gates_equal_the_concatenation_with_both():
    first, second = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 4, 3)
    mix, x = GatedConcat([first, second]), picture()
    both = torch.cat([first(x), second(x)], dim=1)
    for active in ((0, 1), (1, 0)):
        assert torch.equal(mix(x, active).dense(), both)
    head = BlockLinear(2, [32, 64], 3)
    z = mix(x, (0, 1)).map(lambda t: t.flatten(1))
    torch.testing.assert_close(head(z), head.to_dense()(both.flatten(1)))


def test_widths_are_found_without_computing_anything():
    mix, x = GatedConcat(convolutions()).train(), picture()
    closed = {n: b.clone() for n, b in mix.named_buffers() if not n.startswith("branches.1.")}
    tracked = mix.branches[1][1].num_batches_tracked
    z = mix(x, 1)
    random = torch.get_rng_state()
    assert z.dense().shape == (2, 10, 4, 4)
    assert torch.equal(torch.get_rng_state(), random)
    assert tracked == 1  # its one real run; being measured is none
    for name, buffer in closed.items():
        assert torch.equal(mix.get_buffer(name), buffer)
    assert [branch.calls for branch in mix.branches] == [["meta"], ["cpu", "meta"], ["meta"]]
    assert {p.device.type for p in mix.parameters()} == {"cpu"}
    mix(x, 2).dense()
    assert [branch.calls for branch in mix.branches] == [["meta"], ["cpu", "meta"], ["meta", "cpu"]]


def test_zero_aware_consumers_ask_for_no_widths():
    mix, head = GatedConcat(convolutions()), BlockLinear(3, [16 * w for w in WIDTHS], 7)
    head(mix(picture(), 1).map(torch.relu).map(lambda t: t.flatten(1))).sum().backward()
    assert [branch.calls for branch in mix.branches] == [[], ["cpu"], []]
    assert mix.widths is None


def test_wrong_widths_are_refused():
    with pytest.raises(SpaceError, match=r"widths=\(2, 5\): must have one entry for each of the 3 branches"):
        GatedConcat(convolutions(), widths=(2, 5))
    mix = GatedConcat(convolutions(), widths=(2, 4, 3))
    with pytest.raises(SpaceError, match="slot 1 is said to be 4 wide, its branch gave 5"):
        mix(picture(), 1).dense()
    mix(picture(), 0).dense()


def test_a_block_needs_branches_with_names():
    with pytest.raises(SpaceError, match="at least one branch"):
        GatedSum([])
    with pytest.raises(SpaceError, match="a name for each of its 2 branches"):
        GatedSum([nn.Identity(), nn.Identity()], choices=["only"])
    assert GatedSum([nn.Identity(), nn.Identity()]).choices == ("branch0", "branch1")


@pytest.mark.parametrize("block", [GatedConcat, GatedSum])
def test_an_entry_that_names_no_branches_is_refused(block):
    branches = convolutions((4, 4, 4))
    for active in (3, -1, (), (0, 3), (-1, 0), (1, 1), (0, 1, 0), True, (True, False), (0.0, 1.0)):
        with pytest.raises(ArchitectureError, match="must name branches from 0 to 2, at least one, none of them twice"):
            block(branches)(picture(), active)
    assert [branch.calls for branch in branches] == [[], [], []]


def test_open_branches_are_ascending():
    assert open_branches(1, 3) == (1,)
    assert open_branches((2, 0), 3) == (0, 2)


def test_an_entry_is_taken_apart_and_put_together():
    for active, indices in ((2, (2,)), ((0, 2), (0, 2))):
        assert indices_of(active) == indices
        assert all(type(index) is int for index in indices_of(active))
        assert active_of(indices) == active


def test_gated_blocks_come_in_the_order_of_assignment():
    assert list(gated_blocks(Net())) == ["mix", "sum"]


def test_widths_are_found_during_recalibration():
    norm = nn.BatchNorm2d(4, momentum=None)
    mix = GatedConcat([nn.Sequential(nn.Conv2d(3, 4, 1), norm), nn.Conv2d(3, 2, 1)]).train()
    assert mix(torch.randn(2, 3, 5, 5), 1).dense().shape == (2, 6, 5, 5)
    assert norm.training
    assert int(norm.num_batches_tracked) == 0
