"""What holds for every proxy, in whatever company it is asked for: same values, and a network as it was."""

import copy
import warnings
from contextlib import nullcontext
from typing import ClassVar

import pytest
import torch
from support.proxy_networks import build, make_batches
from support.proxy_state import EVERY, NAMES, assert_unchanged, had_of, state_of, used, values_of
from torch import Tensor, nn

from nas.errors import NasError


@pytest.mark.parametrize("name", EVERY)
def test_asked_together_and_asked_alone_in_any_order_the_values_are_the_same(name):
    network, batches, names = build(name), make_batches(2, 4), had_of(name)
    together = values_of(network, names, batches)
    assert list(together) == names
    assert values_of(network, names[::-1], batches) == together
    alone = {proxy: values_of(network, [proxy], batches)[proxy] for proxy in names}
    # For a second derivative (grasp) torch computes the first one of a GroupNorm by another formula.
    assert alone == (pytest.approx(together, rel=1e-5) if name == "group_norm" else together)


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, nullcontext) for name in EVERY), ("frozen", torch.no_grad), ("chain-mixed", torch.inference_mode)],
)
def test_the_network_and_the_world_come_back_as_they_were(name, mode):
    network, batches = used(name), make_batches(2, 3)
    torch.manual_seed(1)
    before, images = state_of(network), copy.deepcopy(batches)
    with mode():
        found = values_of(network, had_of(name), batches)
        assert torch.is_grad_enabled() == (mode is nullcontext)
    assert_unchanged(before, network)
    assert found == values_of(build(name), had_of(name), batches)
    for (x, y), (x_before, y_before) in zip(batches, images, strict=True):
        assert torch.equal(x, x_before)
        assert torch.equal(y, y_before)
        assert not x.requires_grad
        assert x.grad is None


def test_a_network_that_works_in_place_on_its_pictures_scores_like_one_that_does_not():
    batches = make_batches(3, 4)
    found = {proxy: values_of(build("centred-in-place"), [proxy], batches)[proxy] for proxy in NAMES}
    assert found == values_of(build("centred"), NAMES, batches)
    assert values_of(build("centred-in-place"), NAMES, batches) == found


def test_pictures_made_in_inference_mode_are_pictures():
    batches = make_batches(2, 3)
    with torch.inference_mode():
        made_there = [(x.clone(), y.clone()) for x, y in batches]
        found = values_of(build("residual"), NAMES, made_there)
    assert found == values_of(build("residual"), NAMES, batches)


@pytest.mark.parametrize("proxy", NAMES)
def test_one_proxy_alone_leaves_the_network_as_it_was(proxy):
    network = used("residual")
    before = state_of(network)
    values_of(network, [proxy], make_batches(2, 3))
    assert_unchanged(before, network)


class Failing(nn.Module):
    """Runs ``calls`` times, then raises; ``calls`` is no part of the module's state."""

    def __init__(self, inner: nn.Module, calls: int, error: type[BaseException]) -> None:
        super().__init__()
        self.inner, self.left, self.error = inner, iter(range(calls)), error

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        if next(self.left, None) is None:
            raise self.error("on purpose")
        return y


@pytest.mark.parametrize(
    ("calls", "error"), [(0, RuntimeError), (1, KeyboardInterrupt), (3, RuntimeError), (5, KeyboardInterrupt)]
)
def test_after_an_error_the_network_is_as_it_was(calls, error):
    network = Failing(used("residual"), calls, error)
    torch.manual_seed(1)
    before = state_of(network)
    with pytest.raises((error, NasError)):
        values_of(network, NAMES, make_batches(3, 3))
    assert_unchanged(before, network)


def test_a_picture_that_asks_for_its_own_gradient_is_left_alone():
    batches = [(x.requires_grad_(True), y) for x, y in make_batches(2, 3)]
    for x, _ in batches:
        x.grad = torch.ones_like(x)
    found = values_of(build("residual"), NAMES, batches)
    assert all(x.requires_grad and torch.equal(x.grad, torch.ones_like(x)) for x, _ in batches)
    assert found == values_of(build("residual"), NAMES, make_batches(2, 3))


def with_dropout(share: float) -> nn.Module:
    network = build("plain")
    network[3] = nn.Sequential(nn.ReLU(), nn.Dropout(share), nn.Dropout2d(share))
    return network.train()


def test_dropout_drops_nothing():
    batches = make_batches(2, 6)
    assert values_of(with_dropout(0.5), NAMES, batches) == values_of(with_dropout(0.0), NAMES, batches)


def test_the_seed_decides_what_zen_and_meco_draw_and_nothing_else_decides_anything():
    batches, found = make_batches(2, 6), []
    for outside, seed in ((0, 0), (1, 0), (1, 7)):
        torch.manual_seed(outside)
        found.append(values_of(build("chain-mixed"), NAMES, batches, seed))
    assert found[0] == found[1]
    assert [proxy for proxy in NAMES if found[0][proxy] != found[2][proxy]] == ["zen", "meco"]


class Noisy(nn.Module):
    """Draws for itself, whatever mode it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("chain-mixed")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x + 0.1 * torch.randn_like(x))
        return y


def test_a_network_that_draws_for_itself_draws_the_same_in_whatever_company():
    batches = make_batches(3, 4)
    together = values_of(Noisy(), NAMES, batches)
    assert values_of(Noisy(), NAMES[::-1], batches) == together
    assert {proxy: values_of(Noisy(), [proxy], batches)[proxy] for proxy in NAMES} == together


class Counted(nn.Module):
    """Counts how often it runs, copies of it included."""

    runs: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("chain-mixed")

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(len(x))
        y: Tensor = self.inner(x)
        return y


@pytest.mark.parametrize(("more", "runs"), [([], [4]), (["zico"], [4, 4, 4]), (["parameters"], [4])])
def test_one_forward_serves_every_proxy_that_can_share_it(more, runs):
    Counted.runs.clear()
    sharing = ["jacob_cov", "naswot", "ntk_condition", "snip", "grasp", "grad_norm", "fisher", "l2_norm"]
    values_of(Counted(), sharing + more, make_batches(3, 4))
    assert Counted.runs == runs


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("chain-mixed", "residual", "spellings"):
            values_of(build(name), NAMES, make_batches(2, 3))
