"""What a step's paths do not name stays bit for bit: weights, moments, BatchNorm buffers, the consumer's blocks."""

import pytest
import torch

from nas.nn import gated_blocks, indices_of
from nas.seeds import generator
from nas.settings import AdamWSettings, ChainSettings, ResidualSettings, SGDSettings, TwoBranchSettings
from nas.space import build_space
from nas.train import GatedOptimizer, TrainStep

CANDIDATES = ["skip", "conv3", "sep3", "mb2_k3"]
SMALL = {"widths": [4, 6], "depths": [2, 1], "strides": [1, 2], "stem_stride": 2, "candidates": CANDIDATES}
SPACES = {
    "two_branch": TwoBranchSettings(branches=3),
    "chain_sum": ChainSettings(**SMALL),
    "chain_concat": ChainSettings(**SMALL, merge="concat"),
    "residual": ResidualSettings(widths=[4, 6], depths=[2, 1], candidates=["none", *CANDIDATES[1:]]),
}
OPTIMIZERS = {
    "sgd": SGDSettings(lr=0.05, momentum=0.9, weight_decay=0.05),
    "nesterov": SGDSettings(lr=0.05, momentum=0.9, weight_decay=0.05, nesterov=True),
    "adamw": AdamWSettings(lr=0.01, weight_decay=0.1),
}
AVOIDED = 1


def belongs_to(supernet, space, choice):
    """Names of the parameters and buffers of ``choice`` in every slot: its branch, and the weights behind it."""
    prefixes = []
    for name in gated_blocks(supernet):
        prefixes.append(f"{name}.branches.{choice}.")
        consumer = {"mix": "fc1"}.get(name) or name.replace(".mix", ".project")
        prefixes.append(f"{consumer}.weights.{choice}")
    return {name for name in supernet.state_dict() if name.startswith(tuple(prefixes))}


def snapshot(supernet, optimizer):
    """Everything a step could change, by name."""
    found = dict(supernet.state_dict())
    for name, parameter in supernet.named_parameters():
        for key, value in optimizer.optimizer.state[parameter].items():
            found[f"{name}/{key}"] = value
        found[f"{name}/average"] = optimizer.average[parameter]
    return {name: torch.as_tensor(value).clone() for name, value in found.items()}


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("space_name", SPACES)
def test_inactive_branch_is_bit_unchanged(space_name, optimizer_name):
    space = build_space(SPACES[space_name], image_size=16)
    supernet, settings = space.supernet(), OPTIMIZERS[optimizer_name]
    optimizer = GatedOptimizer(supernet, settings, clip_norm=1.0, ema_decay=0.9)
    x, y = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    everything = [tuple(i for _ in space.slots) for i in range(len(space.slots[0].choices))]
    for step in range(3):  # every branch has moments and statistics that could move
        TrainStep(supernet, optimizer)((x, y), everything, settings.lr, step)

    before = snapshot(supernet, optimizer)
    drawn = space.opened([1, 2]).sample_many(2000, generator(0, "test"))
    paths = [path for path in drawn if all(AVOIDED not in indices_of(entry) for entry in path)]
    for step, path in enumerate(paths[:40]):
        TrainStep(supernet, optimizer)((x, y), [path], settings.lr, step)
    after = snapshot(supernet, optimizer)

    closed = belongs_to(supernet, space, AVOIDED)
    assert any(".weights." in name for name in closed) == (space_name in ("two_branch", "chain_concat"))
    assert any("running_mean" in name for name in closed) == (space_name != "two_branch")
    moved = {name.partition("/")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert not moved & closed
    assert moved == set(supernet.state_dict()) - closed  # everything else did move
    moments = {"sgd": "momentum_buffer", "nesterov": "momentum_buffer", "adamw": "exp_avg_sq"}[optimizer_name]
    for name, _ in supernet.named_parameters():
        assert before[f"{name}/{moments}"].count_nonzero(), "a moment of zeros could not have moved anything"
        kept = torch.equal(before[f"{name}/{moments}"], after[f"{name}/{moments}"])
        assert kept == (name in closed)


def test_one_wide_weight_would_not_stay():
    """Why there is one weight a slot: a closed slot's columns of a dense layer move by momentum and decay."""
    dense = torch.nn.Linear(8, 3)
    optimizer = torch.optim.SGD(dense.parameters(), 0.05, momentum=0.9, weight_decay=0.05)
    before = dense.weight.detach()[:, 4:].clone()
    x = torch.cat([torch.randn(5, 4), torch.zeros(5, 4)], dim=1)
    for _ in range(200):
        optimizer.zero_grad()
        dense(x).square().sum().backward()
        assert not dense.weight.grad[:, 4:].count_nonzero()
        optimizer.step()
    assert not torch.allclose(dense.weight[:, 4:], before, rtol=0.05)
