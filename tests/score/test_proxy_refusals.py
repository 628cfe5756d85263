"""What is not finite is an error or the worst rank, never NaN; missing layers are named."""

import math

import pytest
import torch
from support.proxy_networks import CLASSES, build, doubled, make_batches
from support.proxy_state import NAMES, assert_unchanged, state_of, values_of
from torch import nn

from nas.errors import NasError
from nas.score import PROXIES


def scaled(factor: float) -> nn.Module:
    network = build("residual")
    for parameter in network.parameters():
        parameter.data.mul_(factor)
    return network


def infinite() -> nn.Module:
    network = build("plain")
    network[2].weight.data[0, 0, 0, 0] = math.inf
    return network


def test_no_proxy_is_ever_nan():
    x, y = make_batches(1, 1)[0]
    same = [(x.expand(4, -1, -1, -1).clone(), y.expand(4).clone())] * 2
    cases = {"dead": scaled(0), "huge": scaled(1e20), "infinite": infinite()}
    cases = {name: (network, make_batches(2, 4)) for name, network in cases.items()}
    for name, (network, batches) in {**cases, "equal images": (build("residual"), same)}.items():
        for proxy in NAMES:
            try:
                value = values_of(network, [proxy], batches)[proxy]
            except NasError:
                continue
            assert math.isfinite(value) or value == PROXIES[proxy].worst, (name, proxy, value)


def test_zico_counts_nothing_where_batches_are_the_same():
    for number in (2, 3, 5, 6):
        values = values_of(build("residual").double(), ["zico"], doubled(make_batches(1, 4)) * number)
        assert values == {"zico": -math.inf}, number


def test_an_unknown_proxy_names_the_known_ones():
    with pytest.raises(NasError) as caught:
        values_of(build("plain"), ["naswot", "nothing_like_it"], make_batches(2, 3))
    assert "nothing_like_it" in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)


def test_a_network_without_relu_cannot_have_naswot():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    before = state_of(network)
    with pytest.raises(NasError, match="naswot: needs a ReLU"):
        values_of(network, ["snip", "naswot"], make_batches(2, 3))
    assert_unchanged(before, network)


def test_what_a_proxy_needs_is_named():
    one = make_batches(1, 4)
    labels = [(torch.zeros(3, 3, 8, 8), torch.zeros(2).long())]
    bare = nn.Sequential(nn.Flatten())
    for network, names, batches, words in (
        (build("linear"), ["meco"], one, "proxies=meco: needs a BatchNorm's variance"),
        (bare, ["zen"], one, "proxies=zen: needs the feature maps"),
        (bare, ["meco"], one, "proxies=meco: needs the feature maps"),
        (bare, ["l2_norm"], one, "proxies=l2_norm: needs a 2-D convolution or a Linear"),
        (bare, ["synflow"], one, "proxies=synflow: needs a 2-D convolution or a Linear"),
        (nn.Conv2d(3, 4, 3), ["snip"], one, r"proxies=snip: needs logits \(B, classes\)"),
        (build("plain"), ["zico"], one, "proxies=zico: needs at least 2 batches"),
        (build("plain"), [], one, "must name at least one proxy"),
        (build("plain"), ["snip", "snip"], one, "proxies=snip: is named more than once"),
        (build("plain"), ["snip"], [], "batches=.*at least one batch"),
        (build("plain"), ["snip"], make_batches(1, 1), "batches=.*at least two images"),
        (build("plain"), ["snip"], labels, "batches=.*each with its label"),
    ):
        with pytest.raises(NasError, match=words):
            values_of(network, names, batches)
