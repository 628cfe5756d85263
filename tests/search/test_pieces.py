"""Networks of others are evaluated piece by piece where they can be followed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise, product

import pytest
import torch
from torch import nn

from nas.nn import GatedModel, gated_slots
from nas.search import Evaluator
from nas.space import SearchSpace, gate_modules
from nas.space.custom import ModuleSpace
from nas.space.model.candidates import Candidate
from nas.space.model.pieces import in_pieces
from nas.train import evaluate
from tests.support.chains import images
from tests.support.plain_nets import Halved, PlainNet, Skipping, Twice, Untraceable, clipped, wide

BATCHES, CALIBRATION = images(20, 8, seed=0, side=16), images(14, 7, seed=1, side=16)
SECONDS: dict[str, Sequence[Candidate]] = {"blocks.*.second": ["keep", wide, "sep3"]}
FIRSTS: dict[str, Sequence[Candidate]] = {"stem": ["keep", "conv3"], "blocks.?": ["keep", "conv3"]}
SHARED = SECONDS | {"blocks.1.first": ["keep", "conv1"]}
WRITTEN: dict[str, Sequence[Candidate]] = {
    "blocks.0.second": [clipped, "keep"],
    "blocks.1.first": [clipped, "keep"],
}


def supernet(
    net: type[nn.Module], gated: Mapping[str, Sequence[Candidate]], share: Collection[str] = ()
) -> tuple[GatedModel, SearchSpace]:
    torch.manual_seed(0)
    made = gate_modules(net(), gated, share, (3, 16, 16))
    return made, ModuleSpace(made)


@pytest.mark.parametrize(
    ("net", "gated", "share", "entries"),
    [
        (PlainNet, SECONDS, (), [0, 1, 2, 2]),
        (PlainNet, FIRSTS, (), [0, 1, 2, 3, 3]),
        (PlainNet, SHARED, ["blocks.*.second"], [0, 1, 2, 2]),  # one slot lies in two pieces
        (PlainNet, {"blocks.1.*o*d": ["keep", "skip"], "blocks.1.first": ["keep", wide]}, (), [0, 2, 2]),
        (PlainNet, WRITTEN, (), [0, 1, 2, 2]),
        (Halved, FIRSTS, (), [0, 1, 2, 3, 3]),
        (Skipping, SECONDS, (), [0, 2, 2]),
        (Untraceable, SECONDS, (), "the network cannot be run piece by piece: forward cannot be followed, "),
        (Twice, {"blocks.0.second": ["keep", wide], "between": ["keep", "skip"]}, (), "uses a BatchNorm in two pieces"),
    ],
)
def test_shared_results_are_those_alone(
    net: type[nn.Module],
    gated: Mapping[str, Sequence[Candidate]],
    share: Collection[str],
    entries: list[int] | str,
) -> None:
    whole, space = supernet(net, gated, share)
    paths = list(space.enumerate())
    if net is PlainNet and gated is SECONDS:
        paths += product([0, (0, 1)], [2, (0, 2)])
    evaluator = Evaluator(whole, space, BATCHES, CALIBRATION)
    found = {result.architecture: result for result in evaluator(paths)}
    assert found == {a: evaluate(whole, [a], BATCHES, CALIBRATION)[0] for a in paths}
    if isinstance(entries, str):
        assert entries in evaluator.remark
        assert evaluator.remark.startswith("each subnetwork is evaluated alone: ")
        assert evaluator.block_evaluations == len(space.slots) * len(found)
        return
    assert in_pieces(whole.eval()).entries == entries
    assert evaluator.remark == f"evaluations share prefixes: {len(space.slots)} slots in {len(entries) - 2} pieces"
    known = [0, *entries[1:-1]]
    runs = [len({a[:end] for a in found}) * (end - begin) for begin, end in pairwise(known)]
    assert evaluator.block_evaluations == sum(runs)


def test_pieces_are_the_modules_of_the_network() -> None:
    whole, _ = supernet(PlainNet, SECONDS)
    before = list(whole.state_dict())
    pieces = in_pieces(whole.eval())
    assert {id(p) for p in pieces.parameters()} == {id(p) for p in whole.parameters()}
    assert list(whole.state_dict()) == before
    assert len(gated_slots(whole)) == 2


def test_the_line_of_the_users_code_is_named() -> None:
    remark = Evaluator(*supernet(Untraceable, SECONDS), BATCHES, None).remark
    assert "symbolically traced variables" in remark or "float" in remark
    assert "(plain_nets.py:" in remark
