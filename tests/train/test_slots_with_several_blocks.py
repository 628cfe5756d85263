"""A slot with a gated block in every cell trains like any other."""

from dataclasses import replace

import pytest
import torch
from support.runs import finish, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas.settings import (
    CellSettings,
    FixedGateSettings,
    LearnedGateSettings,
    TrainRunSettings,
)
from nas.space import build_space, extract
from nas.train import BranchNorms, Loss, make_report

CELL = CellSettings(cells=1, width=4)
TEXT = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
GATES = [FixedGateSettings(architecture=TEXT), LearnedGateSettings(every=2, warmup=0.0)]


@pytest.mark.parametrize("gate", GATES, ids=["fixed", "learned"])
def test_a_run_logs_every_slot_and_gives_networks(gate, tmp_path):
    run = finish(tiny(TrainRunSettings(space=CELL, gate=gate), epochs=1), tmp_path)
    assert run.step == run.total_steps == 11
    sample = torch.randn(4, 3, 16, 16)
    for found in run.evaluated:
        network = extract(run.supernet.eval(), found.architecture)
        assert torch.equal(network(sample), run.supernet(sample, found.architecture))
    if gate is GATES[0]:
        assert [run.space.encode(found.architecture) for found in run.evaluated] == [TEXT]
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert "plots/supernet" in board.Tags()["images"]
    shares = {tag for tag in board.Tags()["scalars"] if tag.startswith("slot_share")}
    assert {f"slot_share/{slot.name}/{choice}" for slot in run.space.slots for choice in slot.choices} == shares
    learned = {tag for tag in board.Tags()["scalars"] if tag.startswith(("slot_probability", "slots/undecided"))}
    favourite, report = run.gate.favourite(), make_report(run)
    if gate is GATES[0]:
        assert (learned, favourite, report.favourite) == (set(), None, "")
    else:
        assert learned == {"slots/undecided", *(tag.replace("share", "probability") for tag in shares)}
        assert report.favourite == run.space.encode(favourite)
        assert report.favourite in [row.architecture for row in report.subnetworks]
    norms = {tag.rpartition("/")[2] for tag in board.Tags()["scalars"] if tag.startswith("slot_grad_norm")}
    assert norms <= {"nor_conv_1x1", "nor_conv_3x3"}
    assert norms


def supernet_of():
    space = build_space(replace(CELL, cells=2), image_size=8, classes=5)
    return space, space.supernet()


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=random), torch.randint(5, (6,), generator=random)


def test_a_gradient_norm_is_that_of_all_blocks():
    supernet, (x, y) = supernet_of()[1], batch()
    paths = [(3, 2, 3, 0, 1, 2), (3, 1, 4, 2, 3, 0)]
    for path in paths:
        Loss()(supernet, x, y, path)[0].backward()
    expected = {}
    for slot in range(6):
        for choice in {path[slot] for path in paths} & {2, 3}:
            branches = [cell.edges[slot].branches[choice] for i, cell in enumerate(supernet.cells) if i not in (2, 5)]
            grads = [p.grad for branch in branches for p in branch.parameters()]
            assert len(grads) == 6 * 3
            expected[slot, choice] = sum(g.double().square().sum() for g in grads).sqrt().item()
    assert BranchNorms(supernet)(0, paths) == pytest.approx(expected, rel=1e-5)
