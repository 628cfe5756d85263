"""What is not finite, and what cannot be had, is said and never handed on as NaN."""

import math

import pytest
import torch
from support.proxy_networks import CLASSES, build, make_batches
from support.proxy_state import NAMES, assert_unchanged, state_of, values_of
from torch import nn

from nas.errors import NasError
from nas.score import PROXIES


def dead() -> nn.Module:
    network = build("residual")
    for parameter in network.parameters():
        parameter.data.zero_()
    return network


def infinite() -> nn.Module:
    network = build("plain")
    network[2].weight.data[0, 0, 0, 0] = math.inf
    return network


def huge() -> nn.Module:
    network = build("plain")
    for parameter in network.parameters():
        parameter.data.mul_(1e20)
    return network


BROKEN = {"dead": dead, "infinite": infinite, "huge": huge}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("proxy", NAMES)
def test_what_is_not_a_number_is_an_error_or_the_worst_rank(name, proxy):
    batches = make_batches(2, 4)
    try:
        value = values_of(BROKEN[name](), [proxy], batches)[proxy]
    except NasError:
        return
    assert not math.isnan(value)
    if math.isinf(value):
        assert value == PROXIES[proxy].worst


@pytest.mark.parametrize("proxy", NAMES)
def test_pictures_that_are_all_the_same_give_no_nan(proxy):
    x, y = make_batches(1, 1)[0]
    same = [(x.expand(4, -1, -1, -1).clone(), y.expand(4).clone())] * 2
    try:
        value = values_of(build("residual"), [proxy], same)[proxy]
    except NasError:
        return
    assert not math.isnan(value)
    if math.isinf(value):
        assert value == PROXIES[proxy].worst


def test_an_unknown_proxy_is_told_which_there_are():
    with pytest.raises(NasError) as caught:
        values_of(build("plain"), ["naswot", "nas_wot"], make_batches(2, 3))
    assert "nas_wot" in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)


def test_a_network_without_relu_cannot_have_naswot():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    before = state_of(network)
    with pytest.raises(NasError, match=r"ReLU|relu"):
        values_of(network, ["snip", "naswot"], make_batches(2, 3))
    assert_unchanged(before, network)


def test_meco_sends_one_picture_through_which_batchnorm1d_cannot_normalise():
    with pytest.raises(NasError, match="meco"):
        values_of(build("linear"), ["meco"], make_batches(1, 4))


def test_one_batch_is_not_enough_for_zico():
    with pytest.raises(NasError, match="batch"):
        values_of(build("plain"), ["zico"], make_batches(1, 3))


@pytest.mark.parametrize("names", [[], ["snip", "snip"]])
def test_what_is_asked_is_at_least_one_proxy_and_each_once(names):
    with pytest.raises(NasError):
        values_of(build("plain"), names, make_batches(1, 2))


@pytest.mark.parametrize("batches", [[], make_batches(1, 1), [(torch.zeros(3, 3, 8, 8), torch.zeros(2).long())]])
def test_batches_of_one_picture_or_none_are_refused(batches):
    with pytest.raises(NasError):
        values_of(build("plain"), ["snip"], batches)
