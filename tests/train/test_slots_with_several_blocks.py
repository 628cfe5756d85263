"""A slot with a gated block in every cell trains like any other."""

from dataclasses import replace

import pytest
import torch
from support.runs import finish, tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nas.gate import LearnedGate
from nas.settings import (
    CellSettings,
    FixedGateSettings,
    LearnedGateSettings,
    TrainRunSettings,
)
from nas.space import build_space, extract
from nas.train import BranchNorms, GateTrainer, Loss

CELL = CellSettings(cells=1, width=4)
TEXT = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
GATES = [FixedGateSettings(architecture=TEXT), LearnedGateSettings(every=2)]


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
    assert "supernet" in board.Tags()["images"]
    shares = {tag for tag in board.Tags()["scalars"] if tag.startswith("gate/share")}
    assert {f"gate/share_{slot.name}/{choice}" for slot in run.space.slots for choice in slot.choices} == shares
    norms = {tag.rpartition("/")[2] for tag in board.Tags()["scalars"] if tag.startswith("grad_norm")}
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


def test_a_choices_gradient_comes_from_all_its_blocks():
    """``none`` and what reaches no output have none; everything else its outputs' share, summed over the cells."""
    space, supernet = supernet_of()
    gate, x, y = LearnedGate(space, 0, LearnedGateSettings(), 100), *batch()
    path = (3, 2, 0, 1, 0, 4)
    with torch.no_grad():
        for slot, choice in enumerate(path):
            gate.logits[slot, choice] = 50.0
    outputs = {slot: [] for slot in range(6)}

    def keep(slot):
        def hook(_module, _inputs, output):
            outputs[slot].append(output.clone())
            outputs[slot][-1].retain_grad()
            return outputs[slot][-1]

        return hook

    for i in (0, 1, 3, 4, 6, 7):
        for slot, choice in enumerate(path):
            supernet.cells[i].edges[slot].branches[choice].register_forward_hook(keep(slot))
    Loss()(supernet, x, y, path)[0].backward()
    inner = [
        sum(float((out.grad * out.detach()).sum()) for out in outputs[slot] if out.grad is not None)
        for slot in range(6)
    ]
    assert [len(outputs[slot]) for slot in range(6)] == [6, 6, 0, 6, 0, 6]

    seen = []

    def loss_of(architecture):
        loss = Loss()(supernet, x, y, architecture)[0]
        weights = [entry.weight for entry in architecture]
        seen.extend(torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True))
        assert tuple(map(int, architecture)) == path
        return loss

    gate.learn(0, loss_of)
    assert [float(value) for value in seen] == pytest.approx(inner, rel=1e-4, abs=1e-6)
    assert seen[0] == 0  # edge 0-1 leads nowhere
    assert seen[1] != 0


def test_a_path_without_output_gives_no_gate_gradient():
    space, supernet = supernet_of()
    gate = LearnedGate(space, 0, LearnedGateSettings(), 100)
    with torch.no_grad():
        gate.logits[:, 0] = 50.0
    GateTrainer(gate, supernet, Loss(), batch).learn(0)
    assert not gate.logits.grad.count_nonzero()
