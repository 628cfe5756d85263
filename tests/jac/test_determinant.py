"""Determinants of Jacobians against torch.linalg.det of a loop of torch.autograd.grad in float64."""

import copy
import math
from functools import partial
from itertools import product

import pytest
import torch
from support.examples import example
from support.jac_references import error, matrices, refused, taped_jacobian
from torch import nn

from nas.jac import jacobian_det, slogdet


def mlp(n):
    return nn.Sequential(nn.Linear(n, n + 3), nn.Tanh(), nn.Linear(n + 3, n + 3), nn.Tanh(), nn.Linear(n + 3, n))


class Residual(nn.Module):
    """``x + f(x)``, which is no chain."""

    def __init__(self, n):
        super().__init__()
        self.inner = mlp(n)

    def forward(self, x):
        return x + self.inner(x)


def points(*shape):
    return torch.randn(shape, dtype=torch.float64)


def reference(model, x):
    """``(B,)`` with a tape."""
    return torch.linalg.det(matrices(taped_jacobian(model, x), x))


CASES = {
    **{f"chain{n}": (partial(mlp, n), (5, n)) for n in (1, 2, 3, 4, 7)},
    **{f"topped{n}": (lambda n=n: nn.Sequential(mlp(n), nn.GELU()), (5, n)) for n in (1, 2, 3, 4)},
    **{f"residual{n}": (partial(Residual, n), (5, n)) for n in (1, 2, 3, 4, 7)},
    "picture": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(12, 4)),
        (5, 1, 2, 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_determinant_and_gradients_are_the_references(name):
    make, shape = CASES[name]
    model, x, weights = make().double(), points(*shape).requires_grad_(), points(5)
    inputs, expected = [x, *model.parameters()], reference(model, x)
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    for fused in (True, False):
        det, (sign, logabsdet) = jacobian_det(model, x, fused=fused), slogdet(model, x, fused=fused)
        assert det.shape == sign.shape == logabsdet.shape == (5,)
        assert torch.equal(sign, expected.sign())
        assert not sign.requires_grad
        for found, wanted in ((det, expected), (logabsdet, expected.abs().log())):
            assert error(found, wanted) < 1e-10
            ours, theirs = (torch.autograd.grad(value @ weights, inputs, **options) for value in (found, wanted))
            for mine, his in zip(ours, theirs, strict=True):
                assert error(mine, his) < 1e-9
    for function, whole in ((jacobian_det, det), (lambda *a: slogdet(*a).logabsdet, logabsdet)):
        assert error(torch.cat([function(model, x[i : i + 1]) for i in range(5)]), whole) < 1e-10
        with torch.no_grad():
            assert error(function(model, x), whole) < 1e-10
        single = function(copy.deepcopy(model).float(), x.detach().float())
        assert single.dtype == torch.float32
        assert error(single, whole) < 1e-5
    assert not jacobian_det(model.requires_grad_(False), x.detach()).requires_grad


def test_function_of_several_dimensions_is_flattened():
    x = points(4, 2, 2)
    det = jacobian_det(lambda t: torch.stack([t[:, 0] ** 2, t[:, 0] * t[:, 1]], 1), x)
    assert error(det, 4 * x[:, 0].prod(1).square()) < 1e-12


def test_logarithm_neither_overflows_nor_underflows():
    for n, scale in product((2, 3, 5), (1e-30, 1e30)):
        net, x = nn.Sequential(nn.Linear(n, n), nn.Tanh(), nn.Linear(n, n)), points(4, n).float()
        expected = slogdet(net.double(), x.double()).logabsdet + n * math.log(scale)
        with torch.no_grad():
            net[2].weight.mul_(scale)
        for fused in (True, False):
            found = slogdet(net.float(), x, fused=fused).logabsdet
            assert error(found.double(), expected) < 1e-5, (n, scale, fused)


def test_singular_jacobian_has_determinant_zero():
    for n, fused in product((1, 2, 3, 4), (True, False)):
        net = mlp(n).double()
        with torch.no_grad():
            net[4].weight[0] = 0
        assert torch.equal(jacobian_det(net, points(3, n), fused=fused).detach(), points(3) * 0), (n, fused)
        sign, logabsdet = slogdet(net, points(3, n), fused=fused)
        assert torch.equal(sign, points(3) * 0), (n, fused)
        assert torch.equal(logabsdet.detach(), torch.full_like(sign, -math.inf)), (n, fused)


def test_a_determinant_lost_below_the_smallest_number_is_zero():
    net = nn.Linear(4, 4, dtype=torch.float64)
    nn.init.constant_(net.weight, 1e-310)
    sign, logabsdet = slogdet(net, points(3, 4))
    assert (sign == 0).all()
    assert torch.equal(logabsdet.detach(), torch.full_like(sign, -math.inf))


def test_determinant_out_of_range_is_refused():
    net, x = mlp(2), points(3, 2).float()
    with torch.no_grad():
        net[4].weight.mul_(1e30)
        net[4].weight[0].mul_(1e7)
    for fused in (True, False):
        with refused(r"det=.*inf.*the determinant has 3 entries that are not finite.*slogdet"):
            jacobian_det(net, x, fused=fused)
        assert slogdet(net, x, fused=fused).logabsdet.isfinite().all()


def test_second_derivatives_are_refused_or_right():
    net, x = mlp(2).double(), points(4, 2).requires_grad_()

    def penalty(det):
        (gradient,) = torch.autograd.grad(det.square().sum(), x, create_graph=True)
        return gradient.square().sum()

    for function in (jacobian_det, lambda *args: slogdet(*args).logabsdet):
        loss = penalty(function(net, x))
        with refused(r"fused=True: .*second one.*; pass fused=False"):
            loss.backward()
    expected = torch.autograd.grad(penalty(reference(net, x)), [x, net[0].weight, net[0].bias])
    found = torch.autograd.grad(penalty(jacobian_det(net, x, fused=False)), [x, net[0].weight, net[0].bias])
    assert all(error(actual, wanted) < 1e-9 for actual, wanted in zip(found, expected, strict=True))


BAD = {
    r"jacobian=\(3, 2\): .*3 outputs for 2 inputs": (nn.Sequential(nn.Linear(2, 3)), torch.zeros(4, 2)),
    r"jacobian=\(2, 4\)": (nn.Sequential(nn.Linear(4, 2), nn.Tanh()), torch.zeros(4, 4)),
    r"jacobian=\(2, 5\)": (lambda x: x[:, :2] * 2, torch.zeros(4, 5)),
    r"x=\(0, 1, 2, 2\): must be a batch": (nn.Flatten(), torch.zeros(0, 1, 2, 2)),
    r"BatchNorm1d.*model\.eval": (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.zeros(4, 2)),
    r"Dropout.*model\.eval": (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), torch.zeros(4, 2)),
    r"output=\(2,\): must have the batch first": (lambda x: x.sum(0), torch.zeros(3, 2)),
}


def test_bad_input_is_refused():
    for (message, (model, x)), function, fused in product(BAD.items(), (jacobian_det, slogdet), (True, False)):
        with example(function.__name__, fused), refused(message):
            function(model, x, fused=fused)


def test_training_on_the_determinant_preserves_volume():
    """At most 200 steps of Adam bring the mean of |det - 1| on held-out points below 0.05."""
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    held_out, optimizer = torch.randn(1000, 2), torch.optim.Adam(net.parameters(), lr=0.02)

    def distance():
        with torch.no_grad():
            return float((jacobian_det(net, held_out) - 1).abs().mean())

    assert distance() > 0.5
    for _ in range(200):
        optimizer.zero_grad()
        (jacobian_det(net, torch.randn(256, 2)) - 1).square().mean().backward()
        optimizer.step()
        if distance() <= 0.05:
            return
    raise AssertionError(distance())
