"""An extracted subnetwork is a plain module that does, bit for bit, what the supernet does on that path."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from support.references import unchanged
from torch import nn

from nas.errors import SpaceError
from nas.nn import BlockConv2d, BlockLinear, GatedBlock, GatedConcat, GatedSum, gated_blocks, gated_slots, indices_of
from nas.settings import (
    AdamWSettings,
    CellSettings,
    ChainSettings,
    MacroSettings,
    ResidualSettings,
    SGDSettings,
    TwoBranchSettings,
)
from nas.space import build_space, extract
from nas.train import GatedOptimizer, TrainStep

CHAIN = {"widths": [4, 6], "depths": [2, 1], "strides": [1, 2], "candidates": ["skip", "conv3", "mb2_k3", "avg_pool3"]}
CASES = {
    "two_branch": (TwoBranchSettings(branches=3), (2,)),
    "two_branch, two open": (TwoBranchSettings(branches=3), ((0, 2),)),
    "chain of sums": (ChainSettings(**CHAIN), (1, 0, 2)),
    "chain of sums, two open": (ChainSettings(**CHAIN), ((1, 2), 0, (0, 1))),
    "chain of concatenations": (ChainSettings(**CHAIN, merge="concat"), (2, 1, 3)),
    "chain of concatenations, two open": (ChainSettings(**CHAIN, merge="concat"), (2, (0, 1), 3)),
    "residual": (ResidualSettings(widths=[4, 6], depths=[2, 1]), (2, 0, 3)),
    "residual, two open": (ResidualSettings(widths=[4, 6], depths=[2, 1]), ((0, 2), 1, (1, 3))),
    "macro": (MacroSettings(), (0, 2, 0, 1, 2, 1, 0, 0)),
    "cell": (CellSettings(cells=1, width=4), (4, 3, 1, 2, 0, 1)),
    "cell, two open": (CellSettings(cells=1, width=4), ((1, 3), (0, 2), 0, (1, 0), 4, (2, 4))),
    "cell, edges that lead nowhere": (CellSettings(cells=1, width=4), (3, 2, 0, 1, 0, 0)),
}
OPTIMIZERS = {
    "sgd": (
        SGDSettings(lr=0.05, momentum=0.9, weight_decay=0.01),
        lambda parameters: torch.optim.SGD(parameters, 0.05, 0.9, weight_decay=0.01, fused=True),
    ),
    "adamw": (
        AdamWSettings(lr=0.01, weight_decay=0.1),
        lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1, fused=True),
    ),
}
"""Our settings, and torch's own optimizer with the same ones."""


def space_of(name):
    return build_space(CASES[name][0], image_size=16)


def case(name):
    return space_of(name).supernet(seed=1), CASES[name][1]


def batches(count):
    random = torch.Generator().manual_seed(4)
    for _ in range(count):
        yield torch.randn(4, 3, 16, 16, generator=random), torch.randint(10, (4,), generator=random)


def assert_same_state(subnet, supernet):
    whole = supernet.state_dict()
    for name, tensor in subnet.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize("name", CASES)
def test_a_subnet_is_plain_with_the_supernets_output(name):
    supernet, architecture = case(name)
    runs = space_of(name).canonical(architecture)
    names = {block: name for name, block in gated_blocks(supernet).items()}
    for training in (True, False):
        subnet = extract(supernet.train(training), architecture)
        assert subnet.training == training
        assert not [m for m in subnet.modules() if isinstance(m, (GatedBlock, BlockLinear, BlockConv2d))]
        own = subnet.state_dict()
        for entry, blocks in zip(map(indices_of, runs), gated_slots(supernet).values(), strict=True):
            for block in blocks:
                for index, branch in enumerate(block.branches):
                    held = any(key.startswith(f"{names[block]}.branches.{index}.") for key in own)
                    assert held == (index in entry and bool(branch.state_dict()))
        for x, _ in batches(3):
            assert torch.equal(subnet(x), supernet(x, architecture))
            assert_same_state(subnet, supernet)  # in training mode, running statistics move alike


@pytest.mark.parametrize("name", ["chain of sums", "macro"])
def test_a_frozen_batchnorm_stays_frozen_in_the_subnet(name):
    supernet, architecture = case(name)
    supernet.stem[1].eval()
    subnet = extract(supernet, architecture)
    assert subnet.training
    assert not subnet.get_submodule("stem.1").training
    assert not supernet.stem[1].training
    for x, _ in batches(2):
        assert torch.equal(subnet(x), supernet(x, architecture))
    assert_same_state(subnet, supernet)
    assert not any(module.training for module in extract(supernet.eval(), architecture).modules())


def moments(optimizer, module):
    found = {}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}/{key}"] = torch.as_tensor(value)
    return found


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("name", CASES)
def test_a_subnets_training_step_equals_the_supernets(name, optimizer_name):
    """Outputs, gradients, moments and BatchNorm statistics over several steps, all bits; torch's own optimizer, too."""
    settings, make_stock = OPTIMIZERS[optimizer_name]
    for clip_norm, stock in ((0.0, False), (0.05, False), (0.0, True)):
        supernet, architecture = case(name)
        subnet = extract(supernet, architecture)
        gated = GatedOptimizer(supernet, settings, clip_norm)
        own = make_stock(subnet.parameters()) if stock else GatedOptimizer(subnet, settings, clip_norm)
        gradients = {}
        for key, parameter in supernet.named_parameters():
            parameter.register_post_accumulate_grad_hook(
                lambda p, key=key, found=gradients: found.__setitem__(key, p.grad.clone())
            )
        for x, y in batches(3):
            gradients.clear()
            result = TrainStep(supernet, gated)((x, y), [architecture], settings.lr)
            subnet.zero_grad()
            loss = F.cross_entropy(subnet(x), y)
            loss.backward()
            assert result.loss == loss.item()
            plain = {key: p.grad for key, p in subnet.named_parameters() if p.grad is not None}
            assert plain.keys() == gradients.keys()
            assert all(torch.equal(plain[key], gradients[key]) for key in plain)
            own.step() if stock else own.step(settings.lr)
            assert_same_state(subnet, supernet)
        ours, theirs = moments(gated.optimizer, supernet), moments(own if stock else own.optimizer, subnet)
        assert theirs
        assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


@pytest.mark.parametrize("name", CASES)
def test_a_subnet_is_a_copy_that_fits_back(name):
    supernet, architecture = case(name)
    subnet = extract(supernet, architecture)
    assert not {p.data_ptr() for p in subnet.parameters()} & {p.data_ptr() for p in supernet.parameters()}
    optimizer = torch.optim.SGD(subnet.parameters(), 0.1)
    with unchanged(supernet):
        for x, y in batches(2):
            F.cross_entropy(subnet(x), y).backward()
            optimizer.step()
    whole = supernet.state_dict()
    assert any(not torch.equal(tensor, whole[key]) for key, tensor in subnet.state_dict().items())

    subnet, file, y = subnet.eval(), io.BytesIO(), subnet.eval()(x)
    assert torch.equal(copy.deepcopy(subnet)(x), y)
    torch.save(subnet.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    with torch.no_grad():
        for parameter in (*subnet.parameters(), *supernet.parameters()):
            parameter.zero_()
    subnet.load_state_dict(state)
    assert torch.equal(subnet(x), y)
    missing, unexpected = supernet.load_state_dict(state, strict=False)
    assert missing
    assert not unexpected
    assert torch.equal(supernet.eval()(x, architecture), y)


def test_space_subnet_has_the_weights_of_its_seed():
    space = build_space(TwoBranchSettings())
    x = torch.randn(2, 3, 32, 32)
    for seed in (0, 1):
        assert torch.equal(space.subnet((1,), seed)(x), space.supernet(seed)(x, (1,)))
    with pytest.raises(ValueError, match="architecture="):
        space.subnet((2,))


class Dense(nn.Module):
    """Asks for the dense tensor, of branches whose widths nobody has said."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("shift", torch.tensor(0.5))
        self.mix = GatedConcat([nn.Conv2d(3, 2, 3), nn.Conv2d(3, 5, 3)])
        self.head = nn.Linear(7, 10)

    def forward(self, x, architecture):
        return self.head(torch.tanh(self.mix(x, architecture[0]).dense()).mean(dim=(2, 3))) * self.scale + self.shift


def test_a_dense_concatenation_needs_its_widths():
    supernet, x = Dense(), torch.randn(2, 3, 6, 6)
    with pytest.raises(SpaceError, match=r"widths=None: must be known .*; give GatedConcat its widths"):
        extract(supernet, (1,))
    y = supernet(x, (1,))
    assert supernet.mix.widths == (2, 5)
    subnet = extract(supernet, (1,))
    assert torch.equal(subnet(x), y)
    assert {key for key in subnet.state_dict() if "branches" in key} == {"mix.branches.1.weight", "mix.branches.1.bias"}


class Depends(nn.Module):
    """Does something with x that cannot be recorded."""

    def __init__(self, do):
        super().__init__()
        self.block = GatedSum([nn.Identity(), nn.ReLU()])
        self.do = do

    def forward(self, x, architecture):
        return self.block(self.do(x), architecture[0])


def test_a_forward_depending_on_values_is_refused():
    for do in (
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * float(x.mean()),
        lambda x: x[: len(x) // 2],
        lambda x: torch.stack([row * 2 for row in x]),
        lambda x: x if x.shape[0] > 1 else x * 2,
        lambda x: sum(x[i] for i in range(x.shape[0])),
        lambda x: x * torch.ones(x.shape[0], 1, 1, 1),
    ):
        supernet = Depends(do)
        supernet(torch.randn(2, 3, 4, 4), (0,))
        message = r"forward cannot be followed symbolically .*; keep decisions on the values"
        with pytest.raises(SpaceError, match=message) as error:
            extract(supernet, (0,))
        assert "\n" not in str(error.value)


def test_parts_without_gates_may_depend_on_values():
    class Decides(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    supernet = Depends(Decides())
    subnet = extract(supernet, (1,))
    for sign in (1, -1):
        x = sign * torch.ones(2, 3, 4, 4)
        assert torch.equal(subnet(x), supernet(x, (1,)))
