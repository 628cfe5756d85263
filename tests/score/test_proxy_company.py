"""What holds for every proxy, whichever others are asked for: same values, and an unchanged network."""

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


def test_values_do_not_depend_on_other_proxies(sample):
    for name in sample(EVERY, 5):
        network, batches, names = build(name), make_batches(2, 4), had_of(name)
        together = values_of(network, names, batches)
        assert list(together) == names
        assert values_of(network, names[::-1], batches) == together, name
        alone = {proxy: values_of(network, [proxy], batches)[proxy] for proxy in names}
        # For a second derivative (grasp) torch computes the first one of a GroupNorm by another formula.
        assert alone == (pytest.approx(together, rel=1e-5) if name == "group_norm" else together), name


def test_scoring_leaves_network_and_world_unchanged(sample):
    modes = [(name, nullcontext) for name in sample(EVERY, 5)]
    for name, mode in (*modes, ("frozen", torch.no_grad), ("chain-mixed", torch.inference_mode)):
        network, batches = used(name), make_batches(2, 3)
        torch.manual_seed(1)
        before, images = state_of(network), copy.deepcopy(batches)
        with mode():
            found = values_of(network, had_of(name), batches)
            assert torch.is_grad_enabled() == (mode is nullcontext)
        assert_unchanged(before, network)
        assert found == values_of(build(name), had_of(name), batches), name
        for (x, y), (x_before, y_before) in zip(batches, images, strict=True):
            assert torch.equal(x, x_before), name
            assert torch.equal(y, y_before), name
            assert not x.requires_grad
            assert x.grad is None
    network = used("residual")
    before = state_of(network)
    for proxy in NAMES:
        values_of(network, [proxy], make_batches(2, 3))
        assert_unchanged(before, network)


def test_work_in_place_on_images_changes_nothing():
    batches = make_batches(3, 4)
    found = {proxy: values_of(build("centred-in-place"), [proxy], batches)[proxy] for proxy in NAMES}
    assert found == values_of(build("centred"), NAMES, batches)
    assert values_of(build("centred-in-place"), NAMES, batches) == found


def test_images_with_gradients_or_from_inference_count_alike():
    expected = values_of(build("residual"), NAMES, make_batches(2, 3))
    with torch.inference_mode():
        made_there = [(x.clone(), y.clone()) for x, y in make_batches(2, 3)]
        assert values_of(build("residual"), NAMES, made_there) == expected
    batches = [(x.requires_grad_(True), y) for x, y in make_batches(2, 3)]
    for x, _ in batches:
        x.grad = torch.ones_like(x)
    assert values_of(build("residual"), NAMES, batches) == expected
    assert all(x.requires_grad and torch.equal(x.grad, torch.ones_like(x)) for x, _ in batches)


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


def test_an_error_leaves_the_network_unchanged():
    for calls, error in ((0, RuntimeError), (1, KeyboardInterrupt), (3, RuntimeError), (5, KeyboardInterrupt)):
        network = Failing(used("residual"), calls, error)
        torch.manual_seed(1)
        before = state_of(network)
        with pytest.raises((error, NasError)):
            values_of(network, NAMES, make_batches(3, 3))
        assert_unchanged(before, network)


class Dropping(nn.Module):
    """Dropout as modules and as functions, which drop even in eval mode."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.inner, self.share, self.drop = build("plain"), share, nn.Dropout(share)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(nn.functional.dropout2d(self.drop(x), self.share))
        return nn.functional.dropout(input=y, p=self.share)


def test_dropout_drops_nothing():
    batches = make_batches(2, 6)
    assert values_of(Dropping(0.5), NAMES, batches) == values_of(Dropping(0.0), NAMES, batches)


def test_the_seed_changes_zen_and_meco_alone():
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


def test_a_networks_own_draws_are_always_the_same():
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


def test_one_forward_serves_every_proxy_that_shares():
    sharing = ["jacob_cov", "naswot", "ntk_condition", "snip", "grasp", "grad_norm", "fisher", "l2_norm"]
    for more, runs in (([], [4]), (["zico"], [4, 4, 4]), (["parameters"], [4])):
        Counted.runs.clear()
        values_of(Counted(), sharing + more, make_batches(3, 4))
        assert Counted.runs == runs, more


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("chain-mixed", "residual", "spellings"):
            values_of(build(name), NAMES, make_batches(2, 3))
