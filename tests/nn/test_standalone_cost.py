"""A gated step computes and remembers what the hand-written stand-alone network does, for any number of branches."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from nas.bench.gating import slots_space, standalone_slots, standalone_two_branch
from nas.gate import UniformGate
from nas.seeds import generator
from nas.settings import ChainSettings, TwoBranchSettings
from nas.space import build_space, extract


def cost(network, x, *architecture):
    """FLOPs of forward and backward, and the bytes saved in between that are not parameters."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = F.cross_entropy(network(x, *architecture), torch.zeros(len(x), dtype=torch.long))
        loss.backward()
    return counter.get_total_flops(), sum(saved.values())


@pytest.mark.parametrize("choices", [2, 8, 32])
def test_a_path_costs_the_stand_alone_network(choices):
    x, supernet = torch.randn(8, 3, 32, 32), build_space(TwoBranchSettings(branches=choices)).supernet()
    expected = cost(standalone_two_branch(), x)
    for index in {0, 1, choices - 1}:
        assert cost(supernet, x, (index,)) == expected
    x, space = torch.randn(4, 3, 16, 16), slots_space(choices)
    supernet, expected = space.supernet(), cost(standalone_slots(), x)
    for architecture in (*UniformGate(space, 0).paths(0), (choices - 1,) * 8):
        assert cost(supernet, x, architecture) == expected


@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_open_branches_cost_what_they_cost_alone(merge):
    candidates = ["conv1", "conv3", "sep3", "mb2_k3"]
    space = build_space(ChainSettings(widths=[4], depths=[3], strides=[1], merge=merge, candidates=2 * candidates))
    x, supernet = torch.randn(4, 3, 16, 16), space.supernet()
    for architecture in space.opened([2, 3]).sample_many(5, generator(0)):
        assert cost(supernet, x, architecture) == cost(extract(supernet, architecture), x)


def test_both_gates_open_cost_more():
    x, supernet = torch.randn(4, 3, 32, 32), build_space(TwoBranchSettings()).supernet()
    one, both = cost(supernet, x, (0,)), cost(supernet, x, ((0, 1),))
    assert 1.8 * one[0] < both[0] < 2 * one[0]
    assert both[1] > 1.5 * one[1]
