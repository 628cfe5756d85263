"""What a gated step costs, compared with the stand-alone network's step and with code that does without gating."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.bench.compare import Ratio, interleave
from nas.gate import LearnedGate, UniformGate
from nas.nn import conv_bn_relu
from nas.settings import (
    ChainSettings,
    LearnedGateSettings,
    ModelSettings,
    SGDSettings,
    TwoBranchSettings,
)
from nas.space import Architecture, SearchSpace, build_space, extract
from nas.space.two_branch import branch
from nas.train import GatedOptimizer, GateTrainer, Loss, TrainStep

STANDALONE = "stand-alone step"
CPU = torch.device("cpu")
# The weights must not move: a network that memorises its one batch has fewer and fewer active ReLUs, and its step gets
# faster, for a rarely drawn branch later than for one that always runs. That would be measured instead of gating.
SGD = SGDSettings(lr=1e-12)
RESNET18 = ModelSettings(model="resnet18", gated={"layer*.conv2": ["keep", "conv1", "sep3", "sep5"]})
Call = Callable[[], object]


def stock_step(network: nn.Module, forward: Callable[[], Tensor], y: Tensor) -> Call:
    """A step written without this project, where ``y`` is: stock SGD over all parameters."""
    network.to(y.device)
    optimizer = torch.optim.SGD(
        network.parameters(), SGD.lr, momentum=SGD.momentum, weight_decay=SGD.weight_decay, fused=True
    )
    for parameter in network.parameters():  # fused SGD takes all moments of a call or none
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def plain_step(network: nn.Module, x: Tensor, y: Tensor) -> Call:
    """The stock step of a network without gates."""
    return stock_step(network, lambda: network(x), y)


def gated_step(space: SearchSpace, x: Tensor, y: Tensor, fixed: Architecture | None = None) -> Call:
    """Our step, on a new path in every call, or on a ``fixed`` one."""
    supernet, gate, number = space.supernet().to(x.device), UniformGate(space, 0), iter(range(10**9))
    train_step = TrainStep(supernet, GatedOptimizer(supernet, SGD))
    return lambda: train_step((x, y), (fixed,) if fixed else gate.paths(next(number)), SGD.lr)


def basic_steps(space: SearchSpace, standalone: nn.Module, x: Tensor, y: Tensor) -> dict[str, Call]:
    """The step of the subnetwork of first choices by hand, our step, and a learned gate's step and comparison."""
    supernet, number = space.supernet().to(x.device), iter(range(10**9))
    gate = LearnedGate(space, 0, LearnedGateSettings(lr=1e-12), total_steps=1000)
    train_step = TrainStep(supernet, GatedOptimizer(supernet, SGD))
    trainer = GateTrainer(gate, supernet, Loss(), lambda _: (x, y))
    pair = [tuple(0 for _ in space.slots), tuple(len(slot.choices) - 1 for slot in space.slots)]
    return {
        STANDALONE: plain_step(with_weights_of(standalone, space.subnet((0,) * len(space.slots))), x, y),
        "gated": gated_step(space, x, y),
        "learned gate: weights alone": lambda: train_step((x, y), gate.paths(next(number)), SGD.lr),
        "learned gate: comparison alone": lambda: gate.learn(pair, trainer.losses(next(number), pair)),
    }


class WithoutBlocks(nn.Module):
    """The two-branch network without zero-aware layers: all slots, and one dense layer behind them.

    Args:
        closed: what happens to closed branches. ``zeros``: not computed, zeros concatenated.
            ``multiply``: computed and multiplied by 0. ``no_grad``: computed without a tape, multiplied by 0.
    """

    def __init__(self, branches: int, closed: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branch(3, 1) for _ in range(branches))
        self.fc1, self.fc2, self.fc3 = nn.Linear(400 * branches, 120), nn.Linear(120, 84), nn.Linear(84, 10)
        self.closed = closed

    def forward(self, x: Tensor, open_branch: int) -> Tensor:
        slots = []
        for index, module in enumerate(self.branches):
            if index == open_branch:
                slots.append(module(x).flatten(1))
            elif self.closed == "zeros":
                slots.append(x.new_zeros(len(x), 400))
            else:
                tape: AbstractContextManager[object] = torch.no_grad() if self.closed == "no_grad" else nullcontext()
                with tape:
                    slots.append(module(x).flatten(1) * 0.0)
        y: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(torch.cat(slots, dim=1))))))
        return y


def without_blocks_step(branches: int, closed: str, x: Tensor, y: Tensor) -> Call:
    """A step of :class:`WithoutBlocks` on a new random branch in every call."""
    network, random = WithoutBlocks(branches, closed), torch.Generator().manual_seed(0)
    return stock_step(network, lambda: network(x, int(torch.randint(branches, (), generator=random))), y)


def random_batch(size: int, side: int, seed: int = 0, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Images of noise ``(size, 3, side, side)`` and labels of ten classes, on ``device``."""
    random = torch.Generator().manual_seed(seed)
    x, y = torch.randn(size, 3, side, side, generator=random), torch.randint(10, (size,), generator=random)
    return x.to(device), y.to(device)


@torch.no_grad()
def with_weights_of(network: nn.Module, subnet: nn.Module) -> nn.Module:
    """``network`` with the parameters of ``subnet``: how long a step takes also depends on how many ReLUs fire."""
    left = list(subnet.parameters())
    for parameter in network.parameters():
        index = next(i for i, other in enumerate(left) if other.shape == parameter.shape)
        parameter.copy_(left.pop(index))
    return network


def standalone_two_branch() -> nn.Module:
    """The network of one branch, written by hand."""
    dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*branch(3, 1), nn.Flatten(), *dense)


def two_branch(branches: int, rounds: int, device: torch.device = CPU) -> dict[str, Ratio]:
    """All variants of the two-branch network's step at batch 64; slow variants get fewer rounds."""
    x, y = random_batch(64, 32, device=device)
    space = build_space(TwoBranchSettings(branches=branches))
    fast = basic_steps(space, standalone_two_branch(), x, y)
    slow: dict[str, Call] = {"zeros before a dense layer": without_blocks_step(branches, "zeros", x, y)}
    if branches == 2:
        slow["both gates open"] = gated_step(space, x, y, fixed=((0, 1),))
    if branches <= 32:
        slow["multiply by the gate"] = without_blocks_step(branches, "multiply", x, y)
        slow["closed under no_grad"] = without_blocks_step(branches, "no_grad", x, y)
    found = interleave(STANDALONE, {STANDALONE: fast[STANDALONE]} | slow, max(3, rounds // 10))
    return found | interleave(STANDALONE, fast, rounds)


def standalone_slots() -> nn.Module:
    """Stem, 8 x conv3x3-BN-ReLU of 16 channels, pooling, Linear, written by hand."""
    blocks = [conv_bn_relu(16, 16, 3) for _ in range(8)]
    return nn.Sequential(conv_bn_relu(3, 16, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def slots_space(choices: int, width: int = 16) -> SearchSpace:
    """8 slots of ``choices`` x conv3x3-BN-ReLU."""
    candidates = ["conv3"] * choices
    return build_space(ChainSettings(widths=[width], depths=[8], strides=[1], stem_stride=1, candidates=candidates))


def eight_slots(choices: int, rounds: int, device: torch.device = CPU) -> dict[str, Ratio]:
    """The gated step of 8 slots, 16x16 images, batch 16, with a uniform and a learned gate, and with two open gates."""
    space, (x, y) = slots_space(choices), random_batch(16, 16, device=device)
    steps = basic_steps(space, standalone_slots(), x, y)
    steps["two open"] = gated_step(space.opened([2]), x, y)
    steps["two open: stand-alone"] = plain_step(space.subnet(((0, 1),) * len(space.slots)), x, y)
    return interleave(STANDALONE, steps, rounds)


def gated_resnet18(rounds: int, device: torch.device = CPU) -> Ratio:
    """The gated step of torchvision's resnet18, 64x64 images, batch 32, against the networks extracted from it.

    Both take the same four paths in turn, on which each slot opens each of its choices once.
    """
    space, (x, y) = build_space(RESNET18, 3, 64, 10), random_batch(32, 64, device=device)
    paths = [tuple((slot + turn) % 4 for slot in range(len(space.slots))) for turn in range(4)]
    supernet = space.supernet().to(device)
    alone = cycle([plain_step(extract(supernet, path), x, y) for path in paths])
    train_step, ours = TrainStep(supernet, GatedOptimizer(supernet, SGD)), cycle(paths)
    variants: dict[str, Call] = {
        STANDALONE: lambda: next(alone)(),
        "gated": lambda: train_step((x, y), (next(ours),), SGD.lr),
    }
    return interleave(STANDALONE, variants, rounds)["gated"]
