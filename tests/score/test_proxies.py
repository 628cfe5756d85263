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
LOOSE = dict.fromkeys(NAMES, 2e-3) | {"ntk_condition": 2e-2, "jacob_cov": 1e-2}


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


def test_all_published_proxies_but_one_rank_upwards():
    assert set(PROXIES) == {*REFERENCES, "zen"}
    assert [name for name, proxy in PROXIES.items() if not proxy.higher_is_better] == ["ntk_condition"]
    assert all(proxy.name == name for name, proxy in PROXIES.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_proxy_is_its_formula(name):
    for size in (2, 5, 16) if name in ("chain-skips", "spellings") else (5,):
        assert_agrees(build(name).double(), doubled(make_batches(3, size)), formulas_of(name), TIGHT)
    assert_agrees(build(name), make_batches(3, 5), formulas_of(name), LOOSE)  # in float32, to rounding


def test_shared_frozen_and_unused_layers_count_as_stated():
    for name in set(CORNERS) - {"centred-in-place"}:
        assert_agrees(build(name).double(), doubled(make_batches(2, 5)), NAMES, TIGHT)


def test_in_cells_every_proxy_is_its_formula():
    space = build_space(CellSettings(cells=1, width=4), 3, 8, CLASSES)
    for operation in ("none", "nor_conv_3x3"):
        text = f"|{operation}~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|{operation}~2|"
        network = space.subnet(space.decode(text)).double()
        assert_agrees(network, doubled(make_batches(2, 3)), NAMES, TIGHT)


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


def test_naswot_counts_every_kind_of_rectifier():
    batches, networks = make_batches(1, 4), {}
    for name, rectify in {"relu": F.relu, **RECTIFIERS}.items():
        with weights(0):
            networks[name] = Rectified(rectify)
    expected = REFERENCES["naswot"](networks["relu"], batches)
    found = {name: score(network, ["naswot"], batches).values["naswot"] for name, network in networks.items()}
    assert found == pytest.approx(dict.fromkeys(networks, expected))


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


def test_bare_weights_of_extracted_subnetworks_count():
    for name in FUNCTIONAL:
        network = build(name)
        found = score(network, ["snip", "l2_norm"], make_batches(2, 4, 32 if name == "two_branch" else 8)).values
        total = sum(float(p.detach().norm()) for p in network.parameters() if p.dim() > 1)
        assert found["l2_norm"] == pytest.approx(total, rel=1e-5), name


FEATURES = {
    "chain-mixed": "blocks.2.branches.3",
    "residual": "relu",
    "group_norm": "relu",
    "plain": "3",
    "tied": "5",  # with the weight that was drawn last
    "grouped": "8",  # a pool, but not to one pixel
}
"""The module that gives the last feature maps, when it is called last."""


def test_zen_is_its_formula():
    for name, features in FEATURES.items():
        for dtype, tolerance, seed in ((torch.float64, 1e-9, 0), (torch.float64, 1e-9, 5), (torch.float32, 1e-4, 5)):
            network, batches = build(name).to(dtype), [(x.to(dtype), y) for x, y in make_batches(1, 5)]
            found = score(network, ["zen"], batches, seed=seed).values["zen"]
            assert found == pytest.approx(zen(network, batches, seed, features), rel=tolerance), (name, dtype, seed)


def test_meco_draws_its_image_from_the_seed():
    for name in ("chain-mixed", "spellings"):
        network, batches = build(name).double(), doubled(make_batches(1, 5))
        expected = REFERENCES["meco"](network, batches, 5)  # type: ignore[call-arg]
        assert score(network, ["meco"], batches, seed=5).values["meco"] == pytest.approx(expected, rel=1e-9), name


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
