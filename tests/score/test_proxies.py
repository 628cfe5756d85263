"""Each proxy against its formula, written out slowly in ``proxy_references.py``."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.proxy_networks import CLASSES, CORNERS, FUNCTIONAL, NETWORKS, build, doubled, make_batches
from support.proxy_references import REFERENCES, zen
from support.proxy_state import had_of
from torch import Tensor, nn

from nas.score import PROXIES, score
from nas.seeds import weights
from nas.settings import CellSettings
from nas.space import build_space

NAMES = list(REFERENCES)
TIGHT = dict.fromkeys(NAMES, 1e-9) | {"ntk_condition": 1e-6, "grasp": 1e-8}
"""Relative differences in float64; a condition number and a sum of both signs lose digits."""


def formulas_of(network: str) -> list[str]:
    return [name for name in NAMES if name in had_of(network)]


def assert_agrees(network: nn.Module, batches: list, names: list[str], tolerance: dict[str, float]) -> None:
    values = score(network, names, batches).values
    assert list(values) == names
    expected = {name: REFERENCES[name](network, batches) for name in names}
    wrong = {
        name: (values[name], expected[name])
        for name in names
        if not math.isclose(values[name], expected[name], rel_tol=tolerance[name], abs_tol=1e-9)
    }
    assert not wrong


def test_the_published_proxies_are_there_and_all_but_one_rank_upwards():
    assert set(PROXIES) == {*REFERENCES, "zen"}
    assert [name for name, proxy in PROXIES.items() if not proxy.higher_is_better] == ["ntk_condition"]
    assert all(proxy.name == name for name, proxy in PROXIES.items())


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, 5) for name in NETWORKS] + [(name, size) for name in ("chain-skips", "spellings") for size in (2, 16)],
)
def test_in_float64_every_proxy_is_its_formula(name, size):
    assert_agrees(build(name).double(), doubled(make_batches(3, size)), formulas_of(name), TIGHT)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_float32_every_proxy_is_its_formula_to_rounding(name):
    loose = dict.fromkeys(NAMES, 2e-3) | {"ntk_condition": 2e-2, "jacob_cov": 1e-2}
    assert_agrees(build(name), make_batches(3, 5), formulas_of(name), loose)


@pytest.mark.parametrize("name", [name for name in CORNERS if name != "centred-in-place"])
def test_shared_frozen_and_unused_layers_count_as_stated(name):
    assert_agrees(build(name).double(), doubled(make_batches(2, 5)), NAMES, TIGHT)


@pytest.mark.parametrize("operation", ["none", "nor_conv_3x3"])
def test_in_the_cell_space_every_proxy_is_its_formula(operation):
    space = build_space(CellSettings(cells=1, width=4), 3, 8, CLASSES)
    text = f"|{operation}~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|{operation}~2|"
    network = space.subnet(space.decode(text)).double()
    assert_agrees(network, doubled(make_batches(2, 4)), NAMES, TIGHT)


class Rectified(nn.Module):
    """One layer and a rectifier."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.rectify = nn.Linear(192, 9), rectify

    def forward(self, x: Tensor) -> Tensor:
        return self.rectify(self.layer(x.flatten(1)))


RECTIFIERS = {
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "relu6": F.relu6,
    "leaky_relu": nn.LeakyReLU(inplace=True),
    "prelu": nn.PReLU(),
    "threshold": nn.Threshold(0, 0),
}


@pytest.mark.parametrize("name", RECTIFIERS)
def test_whatever_begins_at_zero_is_a_relu_to_naswot(name):
    networks = []
    for rectify in (F.relu, RECTIFIERS[name]):
        with weights(0):
            networks.append(Rectified(rectify))
    relu, other = networks
    batches = make_batches(1, 4)
    expected = REFERENCES["naswot"](relu, batches)
    assert score(other, ["naswot"], batches).values["naswot"] == pytest.approx(expected)


class Functional(nn.Module):
    """A network's own layers, applied by function calls on its parameters."""

    def __init__(self, twin: nn.Sequential) -> None:
        super().__init__()
        self.first, self.first_bias = nn.Parameter(twin[0].weight.detach()), nn.Parameter(twin[0].bias.detach())
        self.second, self.second_bias = nn.Parameter(twin[2].weight.detach()), nn.Parameter(twin[2].bias.detach())
        self.last, self.last_bias = nn.Parameter(twin[5].weight.detach()), nn.Parameter(twin[5].bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.first, self.first_bias, padding=1))
        x = torch.conv2d(x, self.second, self.second_bias, stride=2).relu_()
        return F.linear(x.mean((2, 3)), self.last, self.last_bias)


def test_layers_that_are_function_calls_count_like_modules():
    twin, batches = build("plain"), make_batches(3, 5)
    names = [name for name in NAMES if name not in ("ntk_condition", "meco")]  # those go by names and by modules
    functional, modules = score(Functional(twin), names, batches).values, score(twin, names, batches).values
    assert functional == pytest.approx(modules, rel=1e-5)


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_extracted_subnetworks_with_bare_weights_have_every_proxy(name):
    network = build(name)
    with_weights = score(network, ["snip", "l2_norm"], make_batches(2, 4, 32 if name == "two_branch" else 8)).values
    total = sum(float(p.detach().norm()) for p in network.parameters() if p.dim() > 1)
    assert with_weights["l2_norm"] == pytest.approx(total, rel=1e-5)


FEATURES = {
    "chain-mixed": "blocks.2.branches.3",
    "residual": "relu",
    "group_norm": "relu",
    "plain": "3",
    "tied": "5",  # with the weight that was drawn last
    "grouped": "8",  # a pool, but not to one pixel
}
"""The module that gives the last feature maps, when it is called last."""


@pytest.mark.parametrize("name", FEATURES)
def test_zen_is_its_formula(name):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        network, batches = build(name).to(dtype), [(x.to(dtype), y) for x, y in make_batches(1, 5)]
        for seed in (0, 5):
            found = score(network, ["zen"], batches, seed=seed).values["zen"]
            assert found == pytest.approx(zen(network, batches, seed, FEATURES[name]), rel=tolerance)


@pytest.mark.parametrize("name", ["chain-mixed", "spellings"])
def test_meco_draws_its_picture_from_the_seed(name):
    network, batches = build(name).double(), doubled(make_batches(1, 5))
    expected = REFERENCES["meco"](network, batches, 5)  # type: ignore[call-arg]
    assert score(network, ["meco"], batches, seed=5).values["meco"] == pytest.approx(expected, rel=1e-9)


def test_zen_counts_no_batchnorm_behind_its_features():
    """It is published for BatchNorm2d, and features before the pool are not changed by what comes behind it."""
    network, batches = build("plain"), make_batches(1, 5)
    longer = nn.Sequential(*network, nn.BatchNorm1d(CLASSES))
    assert score(longer, ["zen"], batches).values == score(network, ["zen"], batches).values


def test_the_kernel_taken_in_parts_is_the_kernel(monkeypatch):
    network, batches = build("residual").double(), doubled(make_batches(1, 5))
    expected = score(network, ["ntk_condition"], batches).values["ntk_condition"]
    monkeypatch.setattr("nas.score.shared.KERNEL_BYTES", 5 * 8 * 100)
    assert score(network, ["ntk_condition"], batches).values["ntk_condition"] == pytest.approx(expected, rel=1e-9)
