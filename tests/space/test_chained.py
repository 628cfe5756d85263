"""A supernet that says it is a chain is held to it."""

import pytest
import torch
from support.chains import AwkwardNet, TrivialNet, custom, lively, slots
from support.references import unchanged
from torch import nn

from nas.errors import SpaceError
from nas.settings import ChainSettings, MacroSettings, ResidualSettings
from nas.space import Chained, build_space
from nas.space.chained import survey

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SLOTS = custom("AwkwardNet").slots
SPACES = {
    "chain": build_space(ChainSettings(merge="concat")),
    "residual": build_space(ResidualSettings(widths=[4, 8], depths=[2, 1])),
    "macro": build_space(MacroSettings()),
    "custom": custom("AwkwardNet"),
}


def test_pieces_in_a_row_are_the_forward():
    for name, space in SPACES.items():
        supernet, y = lively(space), X
        architecture = space.sample(torch.Generator().manual_seed(0))
        for number in range(len(space.slots) + 2):
            y = supernet.piece(number, y, architecture)
        assert torch.equal(y, supernet(X, architecture)), name


def test_surveys_find_norms_and_sizes_and_change_nothing():
    supernet = AwkwardNet().eval()
    with unchanged(supernet):
        pieces = survey(supernet, SLOTS, X)
    assert [len(piece.norms) for piece in pieces] == [1, 1, 3, 1, 1]  # not the one without running statistics
    assert [piece.image_bytes for piece in pieces] == [4 * 4 * 8 * 8] * 4 + [4 * 3]
    nn.init.constant_(supernet.head.weight, torch.nan)
    survey(supernet, SLOTS, X)  # NaN differs from itself, and is no other forward


def refused(supernet: Chained, match: str, its_slots=SLOTS) -> None:
    with pytest.raises(SpaceError, match=match):
        survey(supernet.eval(), its_slots, X)
    assert not any(module._forward_pre_hooks for module in supernet.modules())


def test_a_piece_that_changes_its_input_is_known():
    supernet = AwkwardNet()
    supernet.blocks[2].branches[1][0] = nn.ReLU(inplace=True)
    supernet.blocks[1].branches = supernet.blocks[1].mix.branches
    for branch in supernet.blocks[1].branches:
        branch[2] = nn.ReLU(inplace=True)  # inside, where nobody else sees it
    pieces = survey(supernet.eval(), SLOTS, X)
    assert [piece.changes_input for piece in pieces] == [False, False, False, True, False]


def test_a_norm_of_two_pieces_is_refused():
    supernet = AwkwardNet()
    supernet.blocks[2].branches[2][1] = supernet.stem[1]
    refused(supernet, "BatchNorm in two pieces")
    supernet = AwkwardNet()
    supernet.blocks[0].branches[1][1] = supernet.blocks[2].branches[2][1]
    refused(supernet, "BatchNorm in two pieces")


def test_a_forward_that_does_something_else_is_refused():
    class Scaled(AwkwardNet):
        def forward(self, x, architecture):
            return super().forward(x, architecture) * 2

    refused(Scaled(), r"forward gives something else .* on \(0, 0, 0\)")


def test_a_block_for_each_slot_is_asked_for():
    refused(TrivialNet(), "has 8 blocks for 3 slots", slots(3, 3, 3))
