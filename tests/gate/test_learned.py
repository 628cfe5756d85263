"""A gate that learns which branch to open, through the branch that is open."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from support.references import ModuleSpace, hard_sample, logit_gradient, softmax
from support.runs import assert_same
from torch import nn

from nas.errors import DivergedError
from nas.gate import LearnedGate
from nas.nn import BlockLinear, GatedConcat, GatedSum, gated_blocks
from nas.seeds import generator
from nas.settings import CellSettings, ChainSettings, LearnedGateSettings, SGDSettings, TwoBranchSettings
from nas.space import build_space
from nas.train import GatedOptimizer, GateTrainer, Loss, TrainStep

CHAIN = ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["skip", "conv3", "mb2_k3"])
SPACES = {
    "two_branch": TwoBranchSettings(branches=3),
    "chain_sum": CHAIN,
    "chain_concat": ChainSettings(widths=[12], depths=[2], strides=[2], merge="concat"),
    "cell": CellSettings(cells=1, width=4),
}


def space_of(name):
    return build_space(SPACES[name], image_size=16)


def batch(step=0, dtype=torch.float32):
    random = generator(0, "held out", step)
    return torch.randn(6, 3, 16, 16, generator=random, dtype=dtype), torch.randint(10, (6,), generator=random)


class Uneven(nn.Module):
    """Slots with 2, 5 and 1 choices."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(GatedSum(nn.Linear(3, 3) for _ in range(n)) for n in (2, 5, 1))

    def forward(self, x, architecture):
        for block, active in zip(self.blocks, architecture, strict=True):
            x = torch.tanh(block(x, active))
        return x


COUNTS = (2, 5, 1)


def uneven_gate(**settings):
    return LearnedGate(ModuleSpace(Uneven), 0, LearnedGateSettings(**settings), total_steps=100)


def test_missing_choices_are_never_drawn():
    gate, supernet = uneven_gate(lr=1.0), Uneven()
    with torch.no_grad():
        gate.logits[0, :2] = -60.0  # padding of 0 would win by far
    for step in range(500):
        (path,) = gate.paths(step)
        assert all(entry < count for entry, count in zip(path, COUNTS, strict=True))
    for step in range(20):
        gate.learn(step, lambda architecture: supernet(torch.ones(2, 3), architecture).square().mean())
    assert torch.isfinite(gate.logits).all()
    for row, count in zip(gate.logits.tolist(), COUNTS, strict=True):
        assert not any(row[count:])  # padding does not learn
    assert [len(row) for row in gate.probabilities()] == list(COUNTS)
    assert [sum(row) for row in gate.probabilities()] == pytest.approx([1, 1, 1])
    assert all(entry < count for entry, count in zip(gate.best(), COUNTS, strict=True))


def test_paths_are_drawn_from_the_logits_softmax():
    gate = uneven_gate()
    with torch.no_grad():
        gate.logits[1] = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0])
    chances, draws = softmax([0.0, 1.0, -1.0, 0.5, 2.0]), 4000
    assert gate.probabilities()[1] == pytest.approx(chances)
    counts = [0] * 5
    for step in range(draws):
        counts[gate.paths(step)[0][1]] += 1
    chi_square = sum((n - draws * p) ** 2 / (draws * p) for n, p in zip(counts, chances, strict=True))
    assert chi_square < 18.5  # 4 degrees of freedom, p = 0.001
    assert all(type(entry) is int for entry in gate.paths(0)[0])
    assert gate.probabilities()[1] == pytest.approx(chances)  # a draw moves nothing
    assert gate.best()[1] == 4


def test_the_temperature_falls_geometrically_and_stays():
    gate = uneven_gate(temperature=4.0, final_temperature=0.25)
    assert [gate.temperature(step) for step in (0, 25, 50, 100, 1000)] == pytest.approx([4, 2, 1, 0.25, 0.25])
    assert [uneven_gate(every=3).is_due(step) for step in range(6)] == [False, False, True] * 2


def slow_gradient(space, supernet, logits, temperature, seed, step, x, y):
    """The path of a step of the logits, the loss on it and the logits' gradient, by one slot at a time in float64."""
    supernet = copy.deepcopy(supernet).double()
    uniform = torch.rand(logits.shape, generator=generator(seed, "gate-learn", step)).tolist()
    rows = []
    for slot, numbers in enumerate(uniform):
        noise = [-math.log(-math.log(u)) for u in numbers[: len(space.slots[slot].choices)]]
        rows.append([logits[slot, choice].item() + g for choice, g in enumerate(noise)])
    path = tuple(hard_sample(row) for row in rows)
    outputs = []
    for block, entry in zip(gated_blocks(supernet).values(), path, strict=True):

        def keep(_module, _inputs, output):
            outputs.append(output.clone())  # a skip gives what came in, which may be used elsewhere
            outputs[-1].retain_grad()
            return outputs[-1]

        block.branches[entry].register_forward_hook(keep)
    loss = F.cross_entropy(supernet(x.double(), path), y)
    loss.backward()
    inner = [(output.grad * output).sum().item() for output in outputs]
    gradient = torch.zeros(logits.shape, dtype=torch.float64)
    for slot, row in enumerate(rows):
        gradient[slot, : len(row)] = torch.tensor(logit_gradient(row, temperature, inner[slot]), dtype=torch.float64)
    return path, loss.item(), gradient


@pytest.mark.parametrize("name", ["two_branch", "chain_sum", "chain_concat"])
def test_gradient_of_the_logits_equals_the_slow_reference(name):
    space = space_of(name)
    supernet = space.supernet()
    gate = LearnedGate(space, 5, LearnedGateSettings(lr=0.2), total_steps=20)
    for step in range(12):
        x, y = batch(step)
        before = gate.logits.detach().clone()
        path, loss, expected = slow_gradient(space, supernet, before, gate.temperature(step), 5, step, x, y)
        seen = []

        def loss_of(architecture, x=x, y=y, seen=seen):
            seen.append(tuple(map(int, architecture)))
            return Loss()(supernet, x, y, architecture)[0]

        assert gate.learn(step, loss_of) == pytest.approx(loss, rel=1e-5)
        assert seen == [path]
        assert expected.count_nonzero()
        torch.testing.assert_close(gate.logits.grad.double(), expected, rtol=2e-4, atol=2e-6)
        assert not torch.equal(gate.logits, before)


@pytest.mark.parametrize("name", SPACES)
def test_a_logits_step_leaves_the_supernet_unchanged(name):
    space = space_of(name)
    supernet = space.supernet()
    optimizer, gate = GatedOptimizer(supernet, SGDSettings()), LearnedGate(space, 0, LearnedGateSettings(), 100)
    trainer = GateTrainer(gate, supernet, Loss(), lambda step: batch(step + 1))
    x, y = batch()
    for step in range(3):  # statistics and moments that could move
        TrainStep(supernet, optimizer)((x, y), gate.paths(step), 0.05)
    kept = torch.ones_like(next(supernet.parameters()))
    next(supernet.parameters()).grad = kept.clone()
    before = copy.deepcopy(supernet.state_dict())
    flags = [getattr(m, "track_running_stats", None) for m in supernet.modules()]
    logits = gate.logits.detach().clone()
    for step in range(5):
        trainer.learn(step)
    assert not torch.equal(gate.logits, logits)
    after = supernet.state_dict()
    assert any("num_batches_tracked" in key for key in after) == (name != "two_branch")
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert [getattr(m, "track_running_stats", None) for m in supernet.modules()] == flags
    first, *others = supernet.parameters()
    assert torch.equal(first.grad, kept)
    assert all(p.grad is None for p in others)
    assert not optimizer._used
    assert supernet.training


def test_closed_branches_do_not_run_for_logits():
    space = space_of("chain_sum")
    supernet, calls = space.supernet(), []
    for block in supernet.blocks:
        for branch in block.branches:
            branch.register_forward_hook(lambda *_: calls.append(1))
    GateTrainer(LearnedGate(space, 0, LearnedGateSettings(), 100), supernet, Loss(), batch).learn(0)
    assert len(calls) == len(supernet.blocks)


def test_a_loss_that_is_not_finite_moves_nothing():
    gate = uneven_gate()
    before = gate.logits.detach().clone()
    with pytest.raises(
        DivergedError, match=r"gate\.lr=0\.05: the held-out loss is nan at step 7 on path \(\d, \d, 0\)"
    ):
        gate.learn(7, lambda architecture: torch.tensor(float("nan")))
    assert torch.equal(gate.logits, before)


def test_a_restored_gate_goes_on_bit_for_bit():
    space = space_of("chain_sum")
    supernet, settings = space.supernet(), LearnedGateSettings(lr=0.1)
    undisturbed, restored = (LearnedGate(space, 0, settings, 100) for _ in range(2))
    for step in range(5):
        GateTrainer(undisturbed, supernet, Loss(), batch).learn(step)
    restored.load_state_dict(undisturbed.state_dict())
    for gate in (undisturbed, restored):
        for step in range(5, 10):
            GateTrainer(gate, supernet, Loss(), batch).learn(step)
    assert_same(restored.state_dict(), undisturbed.state_dict())
    assert [restored.paths(step) for step in range(20)] == [undisturbed.paths(step) for step in range(20)]


def test_a_gate_refuses_the_state_of_another():
    gate = LearnedGate(space_of("chain_sum"), 0, LearnedGateSettings(), 100)
    state = gate.state_dict()
    assert state["logits"].shape != (1, 2)
    wrong = [{**state, "logits": torch.zeros(1, 2)}, {**state, "step": -torch.ones(())}, {**state, "more": 1}, {}]
    wrong += [{**state, name: value.double()} for name, value in state.items()]
    wrong += [{**state, name: value + torch.nan} for name, value in state.items()]
    for one in wrong:
        with pytest.raises(ValueError, match=r"is \(1, 2\)|is negative|is unknown|is missing|float64|not finite"):
            gate.load_state_dict(one)
        assert not gate.logits.any(), one


class Constant(nn.Module):
    """Gives the same whatever comes in; it can learn what."""

    def __init__(self, width):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return self.value.expand(len(x), -1) + 0.0


class Toy(nn.Module):
    """Two classes by the sign of the first feature; one branch sees the features, the other does not."""

    def __init__(self, kind, solver):
        super().__init__()
        branches = [Constant(4), Constant(4), Constant(4)]
        branches[solver] = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.mix = (GatedConcat if kind == "concat" else GatedSum)(branches)
        self.head = BlockLinear(3, 4, 2) if kind == "concat" else nn.Linear(4, 2)

    def forward(self, x, architecture):
        return self.head(self.mix(x, architecture[0]))


@pytest.mark.parametrize(("kind", "solver"), [("concat", 0), ("sum", 2)])
def test_a_learned_gate_finds_the_solving_branch(kind, solver):
    space = ModuleSpace(lambda: Toy(kind, solver))
    supernet = space.supernet()
    gate = LearnedGate(space, 0, LearnedGateSettings(every=1), total_steps=300)
    train_step = TrainStep(supernet, GatedOptimizer(supernet, SGDSettings()))

    def draw(stream, step):
        x = torch.randn(32, 3, generator=generator(1, stream, step))
        return x, (x[:, 0] > 0).long()

    trainer = GateTrainer(gate, supernet, Loss(), lambda step: draw("val", step))

    for step in range(300):
        train_step(draw("train", step), gate.paths(step), 0.05)
        trainer.learn(step)
    assert gate.best() == (solver,)
    assert gate.probabilities()[0][solver] > 0.8
