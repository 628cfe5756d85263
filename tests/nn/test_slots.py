"""A slot is a gated block, or all blocks that name it."""

import pytest
import torch
from torch import nn

from nas.errors import SpaceError
from nas.nn import GatedConcat, GatedSum, gated_slots


def pair(**kwargs):
    return GatedSum([nn.Identity(), nn.ReLU()], **kwargs)


class Net(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


def test_blocks_that_name_the_same_slot_share_it():
    net = Net(pair(slot="b"), pair(), pair(slot="a"), pair(slot="b"))
    slots = gated_slots(net)
    assert list(slots) == ["b", "blocks.1", "a"]  # in the order of their first blocks
    blocks = {"b": [net.blocks[0], net.blocks[3]], "blocks.1": [net.blocks[1]], "a": [net.blocks[2]]}
    assert {name: [id(block) for block in found] for name, found in slots.items()} == {
        name: [id(block) for block in found] for name, found in blocks.items()
    }


def test_blocks_of_a_slot_share_their_choices():
    concat = GatedConcat([nn.Identity(), nn.ReLU()], [3, 3], slot="a")
    assert len(gated_slots(Net(pair(slot="a"), concat))["a"]) == 2
    with pytest.raises(SpaceError, match=r"slot=a: has blocks with different choices; give them the same"):
        gated_slots(Net(pair(slot="a"), pair(slot="a", choices=["x", "y"])))


def test_a_slots_name_changes_no_output():
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(pair(slot="a")(x, 1), pair()(x, 1))
