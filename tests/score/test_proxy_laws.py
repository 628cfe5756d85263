"""How each proxy changes when weights, images or batches change in a known way."""

import copy
import math

import pytest
import torch
from support.proxy_networks import CLASSES, build, doubled, make_batches
from support.proxy_references import cross_entropy, gradients, in_train_mode, layer_weights
from support.proxy_state import NAMES, values_of
from torch import nn


def test_synflow_is_the_log_of_layers_times_flow():
    """Each layer's sum of w dR/dw is R itself: R is homogeneous of degree one in each layer."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES, bias=False)
    )
    flow = copy.deepcopy(network).double()
    for parameter in flow.parameters():
        parameter.data.abs_()
    expected = math.log(2 * flow(torch.ones(1, 3, 8, 8).double()).sum().item())
    assert values_of(network, ["synflow"], make_batches(1, 2))["synflow"] == pytest.approx(expected, rel=1e-12)


def test_synflow_ignores_signs_data_batchnorm_and_overflow():
    network, changed = build("residual"), build("residual")
    expected = values_of(network, ["synflow"], make_batches(1, 2))["synflow"]
    for parameter in changed.parameters():
        parameter.data.neg_()
    for module in changed.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.mul_(3)
            module.running_var.mul_(5)
    assert values_of(changed, ["synflow"], make_batches(1, 7, seed=3))["synflow"] == expected
    deep = nn.Sequential(*[nn.Conv2d(3, 3, 1, bias=False) for _ in range(40)], nn.Flatten(), nn.Linear(192, 2))
    for parameter in deep.parameters():
        parameter.data.fill_(100.0)
    expected = 40 * math.log(300) + math.log(100 * 192 * 2) + math.log(41)  # e300: far beyond float32
    assert values_of(deep, ["synflow"], make_batches(1, 2))["synflow"] == pytest.approx(expected, rel=1e-9)


def test_weights_before_a_batchnorm_may_be_scaled():
    """Its output stays, so the gradient shrinks as the weight grows, and their product stays."""
    network, scaled = build("residual").double(), build("residual").double()
    for conv in (scaled.stem[0], scaled.one, scaled.two):
        conv.weight.data.mul_(4)
    for norm in (module for net in (network, scaled) for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eps = 1e-30
    batches = doubled(make_batches(2, 5))
    before, after = (values_of(net, NAMES, batches) for net in (network, scaled))
    for proxy in ("snip", "fisher", "jacob_cov", "naswot", "zico", "meco"):
        assert after[proxy] == pytest.approx(before[proxy], rel=1e-6), proxy
    assert after["grad_norm"] < before["grad_norm"]
    assert after["l2_norm"] > before["l2_norm"]
    assert after["synflow"] > before["synflow"]


def test_layers_that_write_in_place_change_no_score():
    def values(inplace):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(inplace), nn.Dropout(), nn.ReLU(inplace)]
        return values_of(nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, CLASSES)), NAMES, make_batches(2, 5))

    assert values(True) == values(False)


def test_order_and_repetition_of_images_do_not_matter():
    """The loss is a mean: each image's share halves, and fisher's square quarters. zico's deviation has ddof 0."""
    network, batches = build("residual").double(), doubled(make_batches(3, 4))
    names = [name for name in NAMES if name != "meco"]  # which looks at the first image alone
    before = values_of(network, names, batches)
    shuffled = [(x.flip(0), y.flip(0)) for x, y in batches]
    assert values_of(network, names, shuffled) == pytest.approx(before, rel=1e-7)
    twice = [(torch.cat([x, x]), torch.cat([y, y])) for x, y in batches]
    expected = {
        name: before[name] / (4 if name == "fisher" else 1) for name in ("snip", "grasp", "grad_norm", "fisher")
    }
    assert values_of(network, list(expected), twice) == pytest.approx(expected, rel=1e-7)
    for same in (twice, batches + batches, batches[::-1]):
        assert values_of(network, ["zico"], same)["zico"] == pytest.approx(before["zico"], rel=1e-9)


def test_only_zico_sees_more_than_the_first_batch():
    network, batches = build("chain-mixed"), make_batches(3, 4)
    names = [name for name in NAMES if name != "zico"]
    assert values_of(network, names, batches) == values_of(network, names, batches[:1])


def test_grasp_is_minus_the_gradients_slope_along_itself():
    """``-w . (grad(w + e g) - grad(w)) / e`` on a smooth network."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, CLASSES)).double()
    x, y = doubled(make_batches(1, 4))[0]
    moved = in_train_mode(network)
    weights = layer_weights(moved)
    start = [weight.detach().clone() for weight in weights]
    before, slopes = gradients(cross_entropy(moved(x), y), weights), []
    for sign in (1, -1):
        for weight, old, gradient in zip(weights, start, before, strict=True):
            weight.data.copy_(old + sign * 1e-4 * gradient)
        slopes.append(gradients(cross_entropy(moved(x), y), weights))
    expected = -sum(
        float((w * (up - down) / 2e-4).sum()) for w, up, down in zip(start, slopes[0], slopes[1], strict=True)
    )
    assert values_of(network, ["grasp"], [(x, y)])["grasp"] == pytest.approx(expected, rel=1e-5)


def test_naswot_counts_the_units_where_images_agree():
    """Three units: an image agrees with itself on 3, with the other on 2, and the determinant is 3 * 3 - 2 * 2."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False), nn.ReLU())
    network[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    x = torch.tensor([[3.0, 1.0], [-1.0, 2.0]]).reshape(2, 2, 1, 1)  # signs + + + and - + +
    found = values_of(network, ["naswot"], [(x, torch.tensor([0, 1]))])["naswot"]
    assert found == pytest.approx(math.log(3 * 3 - 2 * 2))


def test_zen_ignores_the_networks_weights():
    batches = make_batches(1, 4)
    first, second = (values_of(build("plain", seed), ["zen"], batches)["zen"] for seed in (0, 1))
    assert first == second
    assert values_of(build("plain"), ["zen"], make_batches(1, 4, seed=9))["zen"] == first


def test_parameters_counts_everything_once():
    assert values_of(build("tied"), ["parameters"], make_batches(1, 2))["parameters"] == 112 + 148 + 4 + 25
    assert values_of(build("frozen"), ["parameters"], make_batches(1, 2))["parameters"] == 745
