"""The fused path: values and gradients against a loop of torch.autograd.grad in float64, and who may take it."""

import statistics
import time
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import example
from support.jac_references import DISGUISED, taped_jacobian
from torch import Tensor, nn

from nas.jac import JacobianError, jacobian_det, slogdet
from nas.jac.fused import functions
from nas.jac.fused.chain import WIDEST
from nas.jac.fused.functions import replay

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.3),
    "leaky_relu, negative": lambda: nn.LeakyReLU(-0.5),
    "elu": nn.ELU,
    "elu, other alpha": lambda: nn.ELU(0.4),
    "elu, negative alpha": lambda: nn.ELU(-0.4),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu, tanh": lambda: nn.GELU(approximate="tanh"),
    "softplus": nn.Softplus,
    "softplus, with threshold": lambda: nn.Softplus(beta=2.0, threshold=1.0),
    "softsign": nn.Softsign,
    "identity": nn.Identity,
}


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double()


def points(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def square(n: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, n))


def question() -> nn.Sequential:
    return square(2)


def assert_right(model: nn.Module, x: Tensor, tolerance: float = 1e-10) -> None:
    """The Jacobian and the gradient of a random function of it, by each parameter and by ``x``."""
    x = x.clone().requires_grad_()
    inputs = [x, *(p for p in model.parameters() if p.requires_grad)]
    expected, found = taped_jacobian(model, x), replay(model, x, det=False)
    assert found is not None, "not taken by the fused path"
    assert_close(found, expected, tolerance)
    loss = points(*expected.shape, seed=5)
    options = {"allow_unused": True, "materialize_grads": True}
    for actual, wanted in zip(
        torch.autograd.grad((found * loss).sum() + (found**2).sum(), inputs, **options),
        torch.autograd.grad((expected * loss).sum() + (expected**2).sum(), inputs, **options),
        strict=True,
    ):
        assert actual.shape == wanted.shape
        assert_close(actual, wanted, tolerance)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((actual - expected).detach().abs().max()) <= tolerance * max(
        1e-3, float(expected.detach().abs().max())
    )


# Values and gradients


def test_activations_are_torchs_to_the_second_derivative() -> None:
    for name, act in ACTIVATIONS.items():
        with example(name):
            net = seeded(lambda act=act: nn.Sequential(nn.Linear(3, 6), act(), nn.Linear(6, 4), act(), nn.Linear(4, 3)))
            for scale in (1.0, 30.0):
                assert_right(net, points(20, 3, scale=scale))
            kinked = seeded(lambda act=act: nn.Sequential(nn.Linear(1, 3, bias=False), act(), nn.Linear(3, 1)))
            assert_right(kinked, torch.zeros(2, 1, dtype=torch.float64))


LINEAR, TANH = nn.Linear(3, 3), nn.Tanh()
SHAPES = {
    "one Linear": lambda: nn.Sequential(nn.Linear(3, 3)),
    "one activation": lambda: nn.Sequential(nn.SiLU()),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 3))), nn.ELU()
    ),
    "empty inside": lambda: nn.Sequential(nn.Identity(), nn.Linear(3, 3), nn.Sequential(), nn.Tanh(), nn.Identity()),
    "wide and narrow": lambda: nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 1), nn.Tanh(), nn.Linear(1, 3)),
    "shared": lambda: nn.Sequential(LINEAR, TANH, LINEAR, nn.Sigmoid(), LINEAR, TANH),
}


def test_chains_of_each_shape_are_right() -> None:
    for (name, build), batch in product(SHAPES.items(), (1, 7)):
        with example(name, batch):
            assert_right(seeded(build), points(batch, 3))


LAYERS = st.tuples(st.integers(1, 6), st.booleans()) | st.sampled_from(sorted(ACTIVATIONS))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.lists(LAYERS, min_size=1, max_size=7), st.integers(1, 5))
def test_any_chain_is_right(n: int, layers: list[tuple[int, bool] | str], batch: int) -> None:
    def build() -> nn.Sequential:
        modules: list[nn.Module] = []
        width = n
        for layer in layers:
            if layer == "relu in place" and modules and not isinstance(modules[-1], nn.Linear):
                layer = "relu"  # autograd needs what the activation before gave
            if isinstance(layer, str):
                modules.append(ACTIVATIONS[layer]())
            else:
                modules.append(nn.Linear(width, *layer))
                width = layer[0]
        modules += [nn.Linear(width, n)] if width != n else []
        return nn.Sequential(*modules)

    chain = seeded(build)
    if any(not isinstance(layer, nn.Identity) for layer in chain):
        assert_right(chain, points(batch, n))


def test_frozen_parameters_get_no_gradient() -> None:
    for frozen in ({0}, {1}, {2, 3}, {4}, {0, 1, 2, 3, 4, 5}):
        net, x = seeded(question), points(6, 2).requires_grad_()
        full = torch.autograd.grad(jacobian_det(net, x).sum(), [x, *net.parameters()], allow_unused=True)
        for number, parameter in enumerate(net.parameters()):
            parameter.requires_grad_(number not in frozen)
        jacobian_det(net, x).sum().backward()
        for number, (parameter, wanted) in enumerate(zip([x, *net.parameters()], full, strict=True)):
            if number - 1 in frozen or wanted is None:
                assert parameter.grad is None, frozen
            else:
                assert torch.equal(parameter.grad, wanted), frozen


def test_gradients_add_up_over_calls_and_shared_layers() -> None:
    shared = seeded(lambda: nn.Linear(2, 2))
    net, x, y = nn.Sequential(shared, nn.Tanh(), shared), points(4, 2), points(4, 2, seed=1)
    (jacobian_det(net, x) * jacobian_det(net, y)).sum().backward()
    first, second = (torch.linalg.det(taped_jacobian(net, t.requires_grad_())) for t in (x, y))
    expected = torch.autograd.grad((first * second).sum(), shared.weight)[0]
    assert_close(shared.weight.grad, expected, 1e-10)


# What torch's tape promises


def test_backward_twice_gives_the_same() -> None:
    for net in seeded(question), nn.Sequential(*seeded(question), nn.Tanh()):
        det = jacobian_det(net, points(4, net[0].in_features))
        inputs = [net[0].weight, net[0].bias, net[2].weight]
        first = torch.autograd.grad(det.sum(), inputs, retain_graph=True)
        assert all(map(torch.equal, first, torch.autograd.grad(det.sum(), inputs, retain_graph=True)))


def test_weights_changed_before_the_backward_pass_are_noticed() -> None:
    net = seeded(question)
    loss = jacobian_det(net, points(4, 2)).sum()
    with torch.no_grad():
        net[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inputs_changed_before_backward_do_no_harm() -> None:
    net, x = seeded(question), points(4, 2)
    jacobian_det(net, x).sum().backward()
    expected = net[0].weight.grad
    net.zero_grad()
    loss = jacobian_det(net, x).sum()
    x.zero_()
    loss.backward()
    assert torch.equal(net[0].weight.grad, expected)


def test_second_derivatives_are_refused_where_they_are_used() -> None:
    net, x = seeded(question), points(4, 2).requires_grad_()
    inputs = [x, *list(net.parameters())[:5]]
    plain = torch.autograd.grad(jacobian_det(net, x).square().sum(), inputs)
    taped = torch.autograd.grad(jacobian_det(net, x).square().sum(), inputs, create_graph=True)
    assert all(map(torch.equal, plain, taped))
    linear = torch.autograd.grad(jacobian_det(net, x).sum(), inputs, create_graph=True)
    for gradient in taped + linear:
        with pytest.raises(JacobianError, match="pass fused=False"):
            gradient.sum().backward(retain_graph=True)


def test_results_are_ordinary_tensors() -> None:
    for n in (1, 2, 3, 4):
        net, x = square(n).double(), points(4, n).requires_grad_()
        det = jacobian_det(net, x)
        det.sum().backward()
        for tensor in (det, x.grad, *(p.grad for p in list(net.parameters())[:5])):
            assert not tensor.is_inference()
            assert tensor.is_contiguous()
        with torch.inference_mode():
            assert torch.equal(jacobian_det(net, x), det)


def test_network_made_in_inference_mode_has_determinants() -> None:
    with torch.inference_mode():
        net = seeded(question)
        for _ in range(2):
            assert_close(jacobian_det(net, points(4, 2)), jacobian_det(net, points(4, 2), fused=False), 1e-10)


# Memory that is used again


def test_blocks_without_grad_mode_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for net, n in (
        (seeded(question), 2),
        (seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 4))), 4),
    ):
        x = points(50, n)
        whole = jacobian_det(net, x).detach(), slogdet(net, x).logabsdet.detach()
        monkeypatch.setattr(functions, "CHUNK_BYTES", 20_000)
        with torch.no_grad():
            parts = jacobian_det(net, x), slogdet(net, x).logabsdet
        for part, all_at_once in zip(parts, whole, strict=True):
            assert_close(part, all_at_once, 1e-13)


@pytest.mark.parametrize("function", [jacobian_det, slogdet])
def test_bad_numbers_do_not_stay_in_used_memory(function: Callable) -> None:
    net, x = seeded(question), points(4, 2)
    expected = function(net, x)
    for bad in (torch.nan, torch.inf):
        broken = x.clone()
        broken[2, 1] = bad
        with pytest.raises(JacobianError, match=r"x=(nan|inf): the input has 1 entries .* the first at \(2, 1\)"):
            function(net, broken)
        assert all(map(torch.equal, function(net, x), expected))


# Who may take it


def with_own_weight(module: nn.Linear) -> nn.Linear:
    weight = 2 * module.weight.detach()
    del module.weight
    module.register_buffer("weight", weight)
    return module


OTHERS = {
    **{name: lambda make=make: nn.Sequential(make(), nn.Tanh()) for name, make in DISGUISED.items()},
    "weight that is no parameter": lambda: nn.Sequential(with_own_weight(nn.Linear(4, 4)), nn.Tanh()),
    "other module": lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.LayerNorm(4)),
    "activation that is not elementwise": lambda: nn.Sequential(nn.Linear(4, 8), nn.GLU()),
    "no module": lambda: nn.Sequential(),
    "identity": lambda: nn.Sequential(nn.Identity()),
    "module": lambda: nn.Linear(4, 4),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_is_no_chain_goes_the_general_way() -> None:
    for name, build in OTHERS.items():
        with example(name):
            net, x = seeded(build), points(3, 4)
            assert name == "backward hook" or replay(net, x, det=False) is None
            expected = torch.linalg.det(taped_jacobian(net, x.clone().requires_grad_())).detach()
            assert_close(jacobian_det(net, x), expected, 1e-10)


def test_other_inputs_go_the_general_way() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    x = points(3, 4, 2)
    assert replay(net, x, det=False) is None
    blocks = jacobian_det(net, x.reshape(12, 2)).view(3, 4).prod(1)
    assert_close(jacobian_det(net, x), blocks, 1e-10)
    for n in (WIDEST, WIDEST + 1):
        wide = seeded(lambda n=n: nn.Sequential(nn.Linear(n, n), nn.Tanh()))
        assert (replay(wide, points(2, n), det=False) is None) == (n > WIDEST)
    assert replay(net, points(3, 3), det=False) is None
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        jacobian_det(net, points(3, 2).float())


def test_autocast_and_transforms_go_the_general_way() -> None:
    net, x = question(), points(4, 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert replay(net, x, det=False) is None
    found = []
    torch.func.grad(lambda x: found.append(replay(net, x, det=False)) or net(x).sum())(x)
    assert found == [None]


# Speed


@pytest.mark.speed
@pytest.mark.parametrize(("batch", "calls", "most"), [(64, 20, 1.2), (1024, 20, 1.1), (16384, 2, 1.1)])
def test_a_step_costs_what_mean_squared_error_costs(batch: int, calls: int, most: float) -> None:
    net, x = question(), points(batch, 2).float()
    y = points(batch, 2, seed=1).float()

    def seconds(loss: Callable[[], Tensor]) -> float:
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
