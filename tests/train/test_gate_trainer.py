"""A learned gate compares paths of the supernet, finds the better ones, and disturbs nothing."""

import copy

import pytest
import torch
from support.references import ModuleSpace
from torch import nn

from nas.errors import DivergedError
from nas.gate import LearnedGate
from nas.nn import GatedSum
from nas.seeds import generator
from nas.settings import CellSettings, ChainSettings, LearnedGateSettings, SGDSettings, TwoBranchSettings
from nas.space import build_space
from nas.train import GatedOptimizer, GateTrainer, Loss, TrainStep

SPACES = {
    "two_branch": TwoBranchSettings(branches=3),
    "chain_sum": ChainSettings(widths=[4], depths=[3], strides=[1], candidates=["skip", "conv3", "mb2_k3"]),
    "chain_concat": ChainSettings(widths=[12], depths=[2], strides=[2], merge="concat"),
    "cell": CellSettings(cells=1, width=4),
}
EAGER = LearnedGateSettings(every=1, warmup=0.0)


def batch(step=0):
    random = generator(0, "held out", step)
    return torch.randn(6, 3, 16, 16, generator=random), torch.randint(10, (6,), generator=random)


class Sees(nn.Module):
    """A linear layer that sees one of the features."""

    def __init__(self, feature):
        super().__init__()
        self.feature, self.linear = feature, nn.Linear(1, 4)

    def forward(self, x):
        return self.linear(x[:, self.feature, None])


class Planted(nn.Module):
    """Slots in front of a BatchNorm each; the classes depend on feature 0, or on 0 and 1, the rest is noise."""

    def __init__(self, slots):
        super().__init__()
        # Slot s can see feature s, as its choice number 2 - s, or one of two features of noise.
        seen = [[2, 3, 0], [2, 1, 3]][:slots]
        self.mixes = nn.ModuleList(GatedSum(Sees(feature) for feature in features) for features in seen)
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in seen)
        self.head = nn.Linear(4 * slots, 2**slots)

    def forward(self, x, architecture):
        parts = zip(self.norms, self.mixes, architecture, strict=True)
        return self.head(torch.cat([norm(mix(x, active)) for norm, mix, active in parts], dim=1))


@pytest.mark.parametrize("slots", [1, 2])
def test_planted_branches_before_a_batchnorm_are_found(slots):
    def draw(seed, stream, step):
        x = torch.randn(32, 4, generator=generator(seed, stream, step))
        return x, sum((x[:, slot] > 0).long() << slot for slot in range(slots))

    found = []
    for seed in range(10):
        space = ModuleSpace(lambda: Planted(slots))
        supernet = space.supernet(seed)
        gate = LearnedGate(space, seed, LearnedGateSettings(every=2), total_steps=160)
        train_step = TrainStep(supernet, GatedOptimizer(supernet, SGDSettings()))
        trainer = GateTrainer(gate, supernet, Loss(), lambda step, seed=seed: draw(seed, "val", step))
        for step in range(160):
            train_step(draw(seed, "train", step), gate.paths(step), 0.05)
            trainer(step)
        found.append(gate.favourite())
    assert found == [(2, 1)[:slots]] * 10


class Restless(nn.Module):
    """Everything that a forward pass may change or draw: statistics, counts, dropout."""

    def __init__(self):
        super().__init__()
        branch = lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))  # noqa: E731
        self.mix = GatedSum(branch() for _ in range(3))
        self.norms = nn.Sequential(
            nn.BatchNorm2d(4, momentum=None),
            nn.InstanceNorm2d(4, track_running_stats=True),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.BatchNorm2d(4).eval(),
            nn.Dropout2d(0.5),
        )
        self.head = nn.Linear(4, 10)

    def forward(self, x, architecture):
        return self.head(self.norms(self.mix(x, architecture[0])).mean((2, 3)))


@pytest.mark.parametrize("name", [*SPACES, "restless"])
def test_a_comparison_leaves_the_supernet_unchanged(name):
    space = ModuleSpace(Restless) if name == "restless" else build_space(SPACES[name], image_size=16)
    supernet = space.supernet()
    optimizer, gate = GatedOptimizer(supernet, SGDSettings()), LearnedGate(space, 0, EAGER, 100)
    trainer = GateTrainer(gate, supernet, Loss(), lambda step: batch(step + 1))
    for step in range(3):  # statistics and moments that could move
        TrainStep(supernet, optimizer)(batch(), gate.paths(step), 0.05)
    next(supernet.parameters()).grad = kept = torch.ones_like(next(supernet.parameters()))
    whole = lambda: copy.deepcopy((supernet.state_dict(), optimizer.state_dict()))  # noqa: E731
    modes = lambda: [(m.training, getattr(m, "track_running_stats", None)) for m in supernet.modules()]  # noqa: E731
    before, modes_before, random = whole(), modes(), torch.get_rng_state()
    for step in range(5):
        trainer(step)
    assert gate.logits.any()
    assert modes() == modes_before
    assert torch.equal(random, torch.get_rng_state())
    for old, new in zip(before, whole(), strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old), name
    first, *others = supernet.parameters()
    assert first.grad is kept
    assert all(p.grad is None for p in others)
    assert not optimizer.used


def test_paths_are_compared_by_batch_statistics_without_dropout():
    network = Restless()
    trainer = GateTrainer(LearnedGate(ModuleSpace(Restless), 0, EAGER, 100), network, Loss(), batch)
    with torch.no_grad():
        network.norms[3].running_mean.fill_(0.3)  # a layer that its owner has frozen keeps its statistics
    losses, (x, y) = trainer.losses(7, [(2,), (0,)]), batch(7)
    expected = copy.deepcopy(network).eval()
    for norm in [m for m in expected.modules() if isinstance(m, nn.BatchNorm2d) and m is not expected.norms[3]]:
        norm.train()
    assert losses == [Loss()(copy.deepcopy(expected), x, y, path)[0].item() for path in [(2,), (0,)]]


def test_closed_branches_do_not_run_in_a_comparison():
    space = build_space(SPACES["chain_sum"], image_size=16)
    supernet, ran = space.supernet(), []
    for slot, block in enumerate(supernet.blocks):
        for choice, branch in enumerate(block.branches):
            branch.register_forward_hook(lambda *_, at=(slot, choice): ran.append(at))
    gate = LearnedGate(space, 0, EAGER, 100)
    GateTrainer(gate, supernet, Loss(), batch)(0)
    first, second = LearnedGate(space, 0, EAGER, 100).compared(0)
    assert ran == [*enumerate(first), *enumerate(second)]


def test_a_loss_that_is_not_finite_moves_nothing():
    space = build_space(SPACES["two_branch"], image_size=16)
    supernet, gate = space.supernet(), LearnedGate(space, 0, EAGER, 100)
    with torch.no_grad():
        supernet.mix.branches[1][0].weight.fill_(torch.nan)
    message = r"^gate=learned: the held-out loss is nan at step \d on path \(1,\); lower optimizer\.lr"
    gate.compared = lambda step: ((0,), (1,))
    with pytest.raises(DivergedError, match=message):
        GateTrainer(gate, supernet, Loss(), batch)(7)
    assert not gate.logits.any()
