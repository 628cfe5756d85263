"""The fused path: values and gradients against a loop of torch.autograd.grad in float64, and who may take it."""

import math
import statistics
import time
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from support.examples import example
from support.jac_references import DISGUISED, chains, refused, taped_jacobian
from torch import nn

from nas.jac import jacobian_det, slogdet
from nas.jac.fused import functions
from nas.jac.fused.chain import WIDEST
from nas.jac.fused.functions import replay

SMOOTH = [nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Softplus(), nn.Softplus(2.0, 1.0)]
KINKED = [nn.ReLU(), nn.LeakyReLU(0.3), nn.LeakyReLU(-0.5), nn.ELU(), nn.ELU(0.4), nn.ELU(-0.4), nn.Softsign()]
ACTIVATIONS = [*SMOOTH, *KINKED, nn.Identity()]
OPTIONS = {"allow_unused": True, "materialize_grads": True}


def points(*shape):
    return torch.randn(shape, dtype=torch.float64)


def linear(*sizes, **options):
    return nn.Linear(*sizes, **options, dtype=torch.float64)


def square(n=2):
    return nn.Sequential(linear(n, 5), nn.Tanh(), linear(5, 5), nn.Tanh(), linear(5, n))


def assert_right(model, x, tolerance=1e-10):
    """The Jacobian and the gradient of a random function of it, by each parameter and by ``x``."""
    x = x.clone().requires_grad_()
    inputs = [x, *model.parameters()]
    expected, found = taped_jacobian(model, x), replay(model, x, det=False)
    assert found is not None, "not taken by the fused path"
    weights = torch.randn_like(expected)
    both = [[j, *torch.autograd.grad((j * weights + j**2).sum(), inputs, **OPTIONS)] for j in (found, expected)]
    for actual, wanted in zip(*both, strict=True):
        assert_close(actual, wanted, tolerance)


def assert_close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * max(1e-3, float(expected.detach().abs().max()))


# Values and gradients


def test_settings_that_are_no_finite_numbers_go_the_general_way():
    for act in (
        nn.Softplus(threshold=math.inf),
        nn.LeakyReLU(torch.tensor(0.3)),
        nn.ELU(torch.tensor(2.0)),
        nn.ELU(True),
    ):
        net, x = nn.Sequential(linear(2, 4), act, linear(4, 2)), points(5, 2).requires_grad_()
        assert replay(net, x, det=True) is None
        assert_close(jacobian_det(net, x), torch.linalg.det(taped_jacobian(net, x)), 1e-10)


def test_activations_are_torchs_to_the_second_derivative():
    for act in (*ACTIVATIONS, nn.ReLU(inplace=True)):
        net = nn.Sequential(linear(3, 6), act, linear(6, 4), act, linear(4, 3))
        with example(act):
            for scale in (1.0, 30.0):
                assert_right(net, scale * points(20, 3))
            assert_right(nn.Sequential(linear(1, 3, bias=False), act, linear(3, 1)), torch.zeros(2, 1).double())


LINEAR, TANH = linear(3, 3), nn.Tanh()
SHAPES = [
    nn.Sequential(LINEAR),
    nn.Sequential(nn.SiLU()),
    nn.Sequential(nn.Sequential(linear(3, 4), nn.Sequential(nn.Tanh(), linear(4, 3))), nn.ELU()),
    nn.Sequential(nn.Identity(), linear(3, 3), nn.Sequential(), nn.Tanh(), nn.Identity()),
    nn.Sequential(linear(3, 40), nn.Tanh(), linear(40, 1), nn.Tanh(), linear(1, 3)),
    nn.Sequential(LINEAR, TANH, LINEAR, nn.Sigmoid(), LINEAR, TANH),
]


def test_chains_of_each_shape_are_right():
    for chain, batch in product(SHAPES, (1, 7)):
        with example(chain, batch):
            assert_right(chain, points(batch, 3))


@settings(max_examples=60, deadline=None)
@given(case=chains(ACTIVATIONS, plain=True))
def test_any_chain_is_right(case):
    assert_right(case[0], points(*case[1]))


def test_frozen_parameters_get_no_gradient():
    net, x = square(), points(6, 2).requires_grad_()
    full = torch.autograd.grad(jacobian_det(net, x).sum(), [x, *net.parameters()], allow_unused=True)
    for frozen in ({0}, {1}, {2, 3}, {4}, {0, 1, 2, 3, 4, 5}):
        x.grad = None
        net.zero_grad()
        for number, parameter in enumerate(net.parameters()):
            parameter.requires_grad_(number not in frozen)
        jacobian_det(net, x).sum().backward()
        for number, (parameter, wanted) in enumerate(zip([x, *net.parameters()], full, strict=True)):
            if number - 1 in frozen or wanted is None:
                assert parameter.grad is None, frozen
            else:
                assert torch.equal(parameter.grad, wanted), frozen


def test_gradients_add_up_over_calls_and_shared_layers():
    shared = linear(2, 2)
    net, x, y = nn.Sequential(shared, nn.Tanh(), shared), points(4, 2), points(4, 2)
    (jacobian_det(net, x) * jacobian_det(net, y)).sum().backward()
    first, second = (torch.linalg.det(taped_jacobian(net, t.requires_grad_())) for t in (x, y))
    expected = torch.autograd.grad((first * second).sum(), shared.weight)[0]
    assert_close(shared.weight.grad, expected, 1e-10)


# What torch's tape promises


def test_backward_twice_gives_the_same():
    for net in square(), nn.Sequential(*square(), nn.Tanh()):
        det = jacobian_det(net, points(4, net[0].in_features))
        inputs = [net[0].weight, net[0].bias, net[2].weight]
        first = torch.autograd.grad(det.sum(), inputs, retain_graph=True)
        assert all(map(torch.equal, first, torch.autograd.grad(det.sum(), inputs, retain_graph=True)))


def test_changes_before_the_backward_pass_do_no_harm():
    """A changed weight is noticed, and a changed input does not matter."""
    net, x = square(), points(4, 2)
    jacobian_det(net, x).sum().backward()
    expected = net[0].weight.grad
    net.zero_grad()
    loss = jacobian_det(net, x).sum()
    x.zero_()
    loss.backward()
    assert torch.equal(net[0].weight.grad, expected)
    loss = jacobian_det(net, x).sum()
    with torch.no_grad():
        net[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivatives_are_refused_where_they_are_used():
    net, x = square(), points(4, 2).requires_grad_()
    inputs = [x, *list(net.parameters())[:5]]
    plain = torch.autograd.grad(jacobian_det(net, x).square().sum(), inputs)
    taped = torch.autograd.grad(jacobian_det(net, x).square().sum(), inputs, create_graph=True)
    assert all(map(torch.equal, plain, taped))
    for gradient in taped + torch.autograd.grad(jacobian_det(net, x).sum(), inputs, create_graph=True):
        with refused("pass fused=False"):
            gradient.sum().backward(retain_graph=True)


def test_results_are_ordinary_tensors():
    for n in (1, 2, 3, 4):
        net, x = square(n), points(4, n).requires_grad_()
        det = jacobian_det(net, x)
        det.sum().backward()
        for tensor in (det, x.grad, *(p.grad for p in list(net.parameters())[:5])):
            assert not tensor.is_inference()
            assert tensor.is_contiguous()
        with torch.inference_mode():
            assert torch.equal(jacobian_det(net, x), det)
            made_here = square(n)
            for _ in range(2):
                assert_close(jacobian_det(made_here, x), jacobian_det(made_here, x, fused=False), 1e-10)


# Memory that is used again


def test_blocks_without_grad_mode_change_nothing(monkeypatch):
    for net, n in ((square(), 2), (nn.Sequential(linear(4, 6), nn.SiLU(), linear(6, 4)), 4)):
        x = points(50, n)
        whole = jacobian_det(net, x).detach(), slogdet(net, x).logabsdet.detach()
        monkeypatch.setattr(functions, "CHUNK_BYTES", 20_000)
        with torch.no_grad():
            parts = jacobian_det(net, x), slogdet(net, x).logabsdet
        for part, all_at_once in zip(parts, whole, strict=True):
            assert_close(part, all_at_once, 1e-13)


def test_bad_numbers_do_not_stay_in_used_memory():
    net, x = square(), points(4, 2)
    for function, bad in product((jacobian_det, slogdet), (torch.nan, torch.inf)):
        expected, broken = function(net, x), x.clone()
        broken[2, 1] = bad
        with refused(r"x=(nan|inf): the input has 1 entries .* the first at \(2, 1\)"):
            function(net, broken)
        assert all(map(torch.equal, function(net, x), expected))


# Who may take it


def with_own_weight(module):
    weight = 2 * module.weight.detach()
    del module.weight
    module.register_buffer("weight", weight)
    return module


OTHERS = {
    **{name: lambda make=make: nn.Sequential(make(), nn.Tanh()) for name, make in DISGUISED.items()},
    "weight that is no parameter": lambda: nn.Sequential(with_own_weight(linear(4, 4)), nn.Tanh()),
    "other module": lambda: nn.Sequential(linear(4, 4), nn.Softmax(-1), nn.LayerNorm(4, dtype=torch.float64)),
    "activation that is not elementwise": lambda: nn.Sequential(linear(4, 8), nn.GLU()),
    "no module": lambda: nn.Sequential(),
    "identity": lambda: nn.Sequential(nn.Identity()),
    "module": lambda: linear(4, 4),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_is_no_chain_goes_the_general_way():
    for name, build in OTHERS.items():
        with example(name):
            net, x = build(), points(3, 4)
            assert replay(net, x, det=False) is None
            expected = torch.linalg.det(taped_jacobian(net, x.clone().requires_grad_())).detach()
            assert_close(jacobian_det(net, x), expected, 1e-10)


def test_other_inputs_go_the_general_way():
    net, x = nn.Sequential(linear(2, 2), nn.Tanh()), points(3, 4, 2)
    assert replay(net, x, det=False) is None
    assert_close(jacobian_det(net, x), jacobian_det(net, x.reshape(12, 2)).view(3, 4).prod(1), 1e-10)
    for n in (WIDEST, WIDEST + 1):
        wide = nn.Sequential(linear(n, n), nn.Tanh())
        assert (replay(wide, points(2, n), det=False) is None) == (n > WIDEST)
    assert replay(net, points(3, 3), det=False) is None
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        jacobian_det(net, points(3, 2).float())


def test_autocast_and_transforms_go_the_general_way():
    net, x, found = square().float(), points(4, 2).float(), []
    with torch.autocast("cpu", torch.bfloat16):
        assert replay(net, x, det=False) is None
    torch.func.grad(lambda x: found.append(replay(net, x, det=False)) or net(x).sum())(x)
    assert found == [None]


# Speed


@pytest.mark.speed
@pytest.mark.parametrize(("batch", "calls", "most"), [(64, 20, 1.2), (1024, 20, 1.1), (16384, 2, 1.1)])
def test_a_step_costs_what_mean_squared_error_costs(batch, calls, most):
    net, x, y = square().float(), points(batch, 2).float(), points(batch, 2).float()

    def seconds(loss):
        started = time.perf_counter()
        for _ in range(calls):
            net.zero_grad()
            loss().backward()
        return time.perf_counter() - started

    ratios = []
    for _ in range(60):
        baseline = seconds(lambda: F.mse_loss(net(x), y))
        ratios.append(seconds(lambda: (jacobian_det(net, x) - 1).square().mean()) / baseline)
    assert statistics.median(ratios) <= most
