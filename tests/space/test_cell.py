"""NAS-Bench-201 as published: its network, its parameters and multiply-accumulates, its strings."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.cost import FlopCounter, PathFlops, PathParameters, count_flops, count_parameters
from nas.errors import ArchitectureError, SettingError, SpaceError
from nas.nn import gated_blocks, gated_slots
from nas.search.objectives import Limits
from nas.settings import CellSettings, SGDSettings
from nas.space import build_space, check_supernet, extract
from nas.space.cell import CANDIDATES, Zero
from nas.train import GatedOptimizer, TrainStep

SMALLEST = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
LARGEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
TOP = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
PUBLISHED = [
    (SMALLEST, 10, 32, 73_306, 7_783_050),
    (LARGEST, 10, 32, 1_531_546, 220_119_690),
    (SMALLEST, 100, 32, 79_156, 7_788_900),
    (LARGEST, 100, 32, 1_537_396, 220_125_540),
    (SMALLEST, 120, 16, 80_456, 1_953_400),
    (LARGEST, 120, 16, 1_538_696, 55_037_560),
    (TOP, 10, 32, 1_289_000, 184_730_000),
    (TOP, 100, 32, 1_294_000, 184_740_000),
    (TOP, 120, 16, 1_296_000, 46_190_000),
]
"""Of the benchmark: architecture, classes, side of the images, parameters, FLOPs. (The last three as it prints them,
to three digits of a million parameters and two of FLOPs.) Its FLOPs are multiply-accumulates, and 1 for each bias."""

# Strings with each operation on each edge, nodes without a value, and edges that reach no output.
CASES = [
    SMALLEST,
    LARGEST,
    TOP,
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|avg_pool_3x3~2|",
    "|skip_connect~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_1x1~2|",
    "|none~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|nor_conv_1x1~1|skip_connect~2|",  # convolutions of zeros
    "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|",  # the output is zero
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|none~1|none~2|",  # two edges that lead nowhere
    "|nor_conv_1x1~0|+|skip_connect~0|nor_conv_3x3~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|",  # one of several
    "|none~0|+|none~0|avg_pool_3x3~1|+|nor_conv_3x3~0|skip_connect~1|nor_conv_1x1~2|",  # zeros that are passed on
]


def small(**settings):
    return build_space(CellSettings(**{"cells": 2, "width": 4, **settings}), image_size=8, classes=5)


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=random), torch.randint(5, (6,), generator=random)


# ------------------------------------------------------------------------------------------------- the network


def relu_conv_bn(before, after, kernel, stride=1):
    conv = nn.Conv2d(before, after, kernel, stride, {1: 0, 3: 1}[kernel], bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(after, affine=True, track_running_stats=True))


class PublishedNet(nn.Module):
    """The benchmark's stand-alone network written out edge by edge, for one string."""

    def __init__(self, text, width, cells, classes):
        super().__init__()
        self.nodes = [[part.split("~") for part in node.strip("|").split("|")] for node in text.split("+")]
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.cells = nn.ModuleList()
        for stage in (1, 2, 4):
            if stage > 1:
                self.cells.append(self.residual(width * stage // 2, width * stage))
            self.cells.extend(self.cell(width * stage) for _ in range(cells))
        self.last = nn.Sequential(nn.BatchNorm2d(width * 4), nn.ReLU())
        self.head = nn.Linear(width * 4, classes)

    def cell(self, width):
        names = [name for node in self.nodes for name, _ in node]
        convs = {
            str(i): relu_conv_bn(width, width, int(n[-1])) for i, n in enumerate(names) if n.startswith("nor_conv")
        }
        return nn.ModuleDict({"edges": nn.ModuleDict(convs)})

    def residual(self, before, after):
        shortcut = nn.Sequential(nn.AvgPool2d(2, 2, 0), nn.Conv2d(before, after, 1, 1, 0, bias=False))
        a, b = relu_conv_bn(before, after, 3, stride=2), relu_conv_bn(after, after, 3)
        return nn.ModuleDict({"conv_a": a, "conv_b": b, "shortcut": shortcut})

    def run_cell(self, cell, x):
        simple = {"none": lambda x: x * 0.0, "skip_connect": lambda x: x, "avg_pool_3x3": average_of_what_is_there}
        values, number = [x], 0
        for node in self.nodes:
            arriving = []
            for name, source in node:
                operation = simple[name] if name in simple else cell["edges"][str(number)]
                arriving.append(operation(values[int(source)]))
                number += 1
            values.append(sum(arriving))
        return values[-1]

    def forward(self, x):
        x = self.stem(x)
        for cell in self.cells:
            if "shortcut" in cell:
                x = cell["conv_b"](cell["conv_a"](x)) + cell["shortcut"](x)
            else:
                x = self.run_cell(cell, x)
        return self.head(self.last(x).mean(dim=3).mean(dim=2))


def average_of_what_is_there(x):
    """Over the 3x3 neighbours inside the picture."""
    padded, ones = F.pad(x, (1, 1, 1, 1)), F.pad(torch.ones_like(x), (1, 1, 1, 1))
    height, width = x.shape[2:]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    total, count = (sum(t[:, :, i : i + height, j : j + width] for i, j in shifts) for t in (padded, ones))
    return total / count


def plain(name):
    """A supernet's name of a tensor in the network of one path."""
    return re.sub(r"branches\.\d\.", "", name)


def published(space, supernet, text):
    """The published network in float64, with a path's weights, and its own where edges lead nowhere."""
    network = PublishedNet(text, width=4, cells=2, classes=5).double()
    architecture = space.decode(text)
    weights = {plain(name): value for name, value in extract(supernet, architecture).state_dict().items()}
    others = network.load_state_dict(weights, strict=False)
    assert not others.unexpected_keys
    dead = {str(edge) for edge, choice in enumerate(space.canonical(architecture)) if choice != architecture[edge]}
    assert {name.split(".")[3] for name in others.missing_keys} <= dead
    return network


@pytest.mark.parametrize("text", CASES)
def test_a_path_equals_the_published_network(text):
    """In float64, several steps of training and then evaluation: outputs, gradients, BatchNorm statistics."""
    space = small()
    supernet, architecture = space.supernet(seed=3).double(), space.decode(text)
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):  # biases that make something of zeros
            nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(1))
    reference = published(space, supernet, text)
    for seed in range(3):
        x, y = batch(seed)
        ours, theirs = supernet(x.double(), architecture), reference(x.double())
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        for output in (ours, theirs):
            F.cross_entropy(output, y).backward()
    found = {plain(name): p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    expected = {name: p.grad for name, p in reference.named_parameters()}
    assert found.keys() <= expected.keys()
    for name, gradient in expected.items():
        if name in found:
            torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-10)
        else:  # what reaches no output has none; the published none multiplies by zero
            assert gradient is None or not gradient.count_nonzero()
    buffers = dict(reference.named_buffers())
    for name, buffer in extract(supernet, architecture).named_buffers():
        torch.testing.assert_close(buffer, buffers[plain(name)], rtol=1e-9, atol=1e-12)
    x = batch(9)[0].double()
    torch.testing.assert_close(supernet.eval()(x, architecture), reference.eval()(x), rtol=1e-9, atol=1e-12)


def test_parameters_and_flops_are_the_published_ones():
    for text, classes, side, parameters, flops in PUBLISHED:
        space = build_space(CellSettings(), image_size=side, classes=classes)
        architecture, supernet = space.decode(text), space.supernet()
        found = count_parameters(extract(supernet, architecture))
        counted = count_flops(supernet.eval(), architecture, (3, side, side)) // 2 + classes
        if text == TOP:
            found, counted = round(found, -3), round(counted, -4)
        assert (found, counted) == (parameters, flops), (text, classes)


def test_cells_stages_and_operations_are_as_published():
    supernet, shapes = build_space(CellSettings(width=8)).supernet().eval(), []
    for cell in supernet.cells:
        cell.register_forward_hook(lambda _, args, y: shapes.append(tuple(y.shape[1:])))
    supernet(torch.randn(1, 3, 32, 32), (1, 2, 3, 4, 1, 2))
    assert shapes == [(8, 32, 32)] * 5 + [(16, 16, 16)] * 6 + [(32, 8, 8)] * 6
    blocks = gated_blocks(supernet)
    assert len(blocks) == 15 * 6
    for block in blocks.values():
        assert block.choices == ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
        none, skip, *convs, pool = block.branches
        assert not [*none.parameters(), *skip.parameters(), *pool.parameters()]
        for conv, kernel in zip(convs, (1, 3), strict=True):
            assert [type(part) for part in conv] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]
            assert conv[1].kernel_size == (kernel, kernel)


# ---------------------------------------------------------------------------------------------- what is computed


def test_none_is_not_computed(monkeypatch):
    """Neither alone nor beside other open gates; a node without a value is zeros."""
    space = small(cells=1)
    supernet, x = space.supernet().eval(), batch()[0]
    supernet.cells[0].register_forward_hook(lambda _, args, y: seen.append((args[0], y)))
    monkeypatch.setattr(Zero, "forward", lambda *_: pytest.fail("none was computed"))
    with torch.no_grad():
        for architecture in ((0,) * 6, (3, 0, 0, 2, 1, 0), ((0,), 0, 0, 0, 0, (0,))):
            seen = []
            supernet(x, architecture)
            ((before, after),) = seen
            if architecture[3] == 0:
                assert after.shape == before.shape
                assert not after.count_nonzero()
        both, alone = supernet(x, ((0, 3), 1, (2, 0), 4, 0, (1, 0, 3))), supernet(x, (3, 1, 2, 4, 0, (1, 3)))
    assert torch.equal(both, alone)


def test_what_leads_nowhere_costs_nothing():
    space = small(cells=1)
    supernet, random = space.supernet(), torch.Generator().manual_seed(0)
    flops, parameters = PathFlops(space, supernet, (3, 8, 8)), PathParameters(space, supernet)
    for architecture in [space.decode(text) for text in CASES] + space.sample_many(20, random):
        assert flops(architecture) == flops.count(architecture) == flops(space.canonical(architecture))
        assert parameters(architecture) == parameters.count(architecture)
    assert flops.smallest() == (space.decode(SMALLEST), flops((0,) * 6))
    assert flops.largest() == (space.decode(LARGEST), flops((3,) * 6))
    costs = {"flops": flops, "parameters": parameters}
    bounds = {name: cost((0, 0, 0, 2, 0, 0)) for name, cost in costs.items()}
    assert {*Limits(space, bounds, costs).allowed()} == {
        a for a in space.networks() if all(costs[name](a) <= bound for name, bound in bounds.items())
    }
    assert flops((3, 2, 0, 1, 0, 0)) == flops((0, 0, 0, 1, 0, 0)) < flops((3, 2, 0, 1, 2, 0))
    with FlopCounter() as step:  # forward and backward
        F.cross_entropy(supernet(batch()[0], (3, 2, 0, 1, 0, 0)), batch()[1]).backward()
    with FlopCounter() as canonical_step:
        F.cross_entropy(supernet(batch()[0], (0, 0, 0, 1, 0, 0)), batch()[1]).backward()
    assert step.total == canonical_step.total


def test_a_canonical_cell_has_nothing_that_leads_nowhere():
    space = small()
    canonical = {space.canonical(architecture) for architecture in space.enumerate()}
    assert len(canonical) == 10_405
    assert all(space.canonical(architecture) == architecture for architecture in canonical)
    assert space.canonical((3, 2, 0, 1, 0, 0)) == (0, 0, 0, 1, 0, 0)
    assert space.canonical((0, 0, 4, 3, 1, 2)) == (0, 0, 0, 3, 0, 2)  # but the BatchNorm behind zeros has a bias
    assert space.canonical(((0, 3), 1, (2, 0), 4, 0, (1, 0, 3))) == (3, 1, 2, 4, 0, (1, 3))


def test_closed_operations_stay_bit_unchanged():
    space, avoided = small(), CANDIDATES.index("nor_conv_1x1")
    supernet, settings = space.supernet(), SGDSettings(lr=0.05, momentum=0.9, weight_decay=0.05)
    optimizer = GatedOptimizer(supernet, settings, ema_decay=0.9)
    for step in range(2):  # moments and statistics that could move
        TrainStep(supernet, optimizer)(batch(), [(2,) * 6, (3,) * 6], settings.lr, step)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    others = [i for i in range(len(CANDIDATES)) if i != avoided]
    for step in range(12):
        path = tuple(others[(step + edge) % 4] for edge in range(6)) if step else (3,) * 6
        TrainStep(supernet, optimizer)(batch(step), [path], settings.lr, step)
    moved = {name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if f".branches.{avoided}." not in name}


def test_edges_that_lead_nowhere_stay_bit_unchanged():
    """Weights, BatchNorm statistics, moments and moving averages, whatever decays them elsewhere."""
    space, settings = small(), SGDSettings(lr=0.05, momentum=0.9, weight_decay=0.05)
    supernet = space.supernet()
    optimizer = GatedOptimizer(supernet, settings, ema_decay=0.9)
    step = TrainStep(supernet, optimizer)
    for number in range(2):  # moments and statistics that could move
        step(batch(), [(2,) * 6, (3,) * 6], settings.lr, number)
    before = copy.deepcopy({**supernet.state_dict(), **optimizer.state_dict()})
    for number in range(2, 5):
        step(batch(number), [(3, 2, 0, 1, 0, 0)], settings.lr, number)
    after = {**supernet.state_dict(), **optimizer.state_dict()}
    edges = {name for name in before if ".edges." in name}
    assert len(edges) > 100
    assert {name for name in before if not torch.equal(after[name], before[name])} == before.keys() - edges


def test_every_cell_has_the_same_architecture():
    space = small()
    slots = gated_slots(space.supernet())
    assert (
        list(slots)
        == [slot.name for slot in space.slots]
        == [f"edge{edge}" for edge in ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")]
    )
    assert [len(blocks) for blocks in slots.values()] == [6] * 6


def test_the_check_sees_every_operation_and_edge():
    """Also of edges that the first path, none everywhere, does not call."""
    space = small()
    supernet = space.supernet()
    check_supernet(space, supernet, 3, 8, 5)
    supernet.cells[3].edges[4].branches[4] = nn.AvgPool2d(2)
    with pytest.raises(SpaceError, match=r"slot=cells\.3\.edges\.4: its branches disagree in shape: .*avg_pool_3x3"):
        check_supernet(space, supernet, 3, 8, 5)


# ---------------------------------------------------------------------------------------------------- settings


def test_a_network_that_cannot_be_is_refused():
    with pytest.raises(SpaceError, match=r"data\.image_size=30: must be divisible by 4 for space cell; use 16 or 32"):
        build_space(CellSettings(), image_size=30)

    for name in ("cells", "width"):
        with pytest.raises(SettingError, match=rf"space\.{name}=0: must be above 0"):
            CellSettings(**{name: 0})


# ----------------------------------------------------------------------------------------------------- strings


def test_decode_undoes_encode_for_all_architectures():
    space = small()
    assert space.size == 15_625
    texts = {space.encode(architecture): architecture for architecture in space.enumerate()}
    assert len(texts) == 15_625
    assert all(space.decode(text) == architecture for text, architecture in texts.items())


def test_strings_are_the_published_ones():
    space = small()
    texts = {
        (3, 3, 3, 1, 3, 2): (
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
        ),
        (0, 1, 2, 3, 4, 0): "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|",
        ((1, 3), 0, (4, 0), 2, 2, 0): (
            "|skip_connect~0|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|none~1|+|nor_conv_1x1~0|nor_conv_1x1~1|none~2|"
        ),
    }
    for architecture, text in texts.items():
        assert space.encode(architecture) == text
        assert space.decode(text) == architecture


def variants():
    nodes = TOP.split("+")
    yield "0-1-2-3-4-0", "must have 3 nodes, joined by '+'; it has 1"
    yield "", "must have 3 nodes"
    yield "+".join(nodes[:2]), "must have 3 nodes, joined by '+'; it has 2"
    yield f"{TOP}+|none~0|", "must have 3 nodes, joined by '+'; it has 4"
    yield TOP.replace("skip_connect", "skip"), "skip is not an operation of this space (none, skip_connect, "
    yield TOP.replace("nor_conv_3x3~0|+", "nor_conv_5x5~0|+"), "nor_conv_5x5 is not an operation"
    yield TOP.replace("skip_connect~0", "skip_connect~1"), "node 3 must have the edges from 0, 1, 2, in this order, not"
    yield TOP.replace("|nor_conv_3x3~2", ""), "node 3 must have the edges from 0, 1, 2, in this order, not from 0, 1"
    yield TOP.replace("|nor_conv_3x3~0|+", "|nor_conv_3x3~1|+"), "node 1 must have the edges from 0, in this order"
    yield TOP.replace("~2", "~3"), "node 3 must have the edges from 0, 1, 2"
    yield f"{nodes[0]}+|none~1|none~0|+{nodes[2]}", "node 2 must have the edges from 0, 1, in this order, not from 1, 0"
    yield f"{nodes[0]}+|none~0|none~0|none~1|+{nodes[2]}", "node 2 has none from 0 twice"
    yield TOP[1:], "node 1 must read |operation~source|...|, not 'nor_conv_3x3~0|'"
    yield TOP.replace("~2", ""), "node 3 must read |operation~source|...|"
    yield TOP.replace("~2", "~-2"), "node 3 must read"
    yield TOP.replace("~2", "~12"), "node 3 must read"
    yield TOP.replace("|+|", "| + |"), "node 1 must read"


def test_a_string_that_is_not_published_is_refused():
    space = small()
    for text, rule in variants():
        with pytest.raises(ArchitectureError, match=re.escape(rule)) as caught:
            space.decode(text)
        assert str(caught.value).startswith(f"architecture={text}: ")
    example = caught.value.remedy.rpartition(" ")[2]
    assert space.encode(space.decode(example)) == example


def test_an_architecture_of_another_shape_is_refused():
    space = small()
    for architecture in [(0,) * 5, (0,) * 7, (5, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, ())]:
        with pytest.raises(ArchitectureError):
            space.encode(architecture)
