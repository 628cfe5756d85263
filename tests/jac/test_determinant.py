"""Determinants of Jacobians against torch.linalg.det of a loop of torch.autograd.grad in float64."""

import copy
import math
from itertools import product

import pytest
import torch
from support.examples import example
from support.jac_references import matrices, taped_jacobian
from torch import Tensor, nn

from nas.jac import JacobianError, jacobian_det, slogdet


def mlp(n: int, seed: int = 0) -> nn.Sequential:
    width = n + 3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(n, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, n))


class Residual(nn.Module):
    """``x + f(x)``, which is no chain."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.inner = mlp(n, seed=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def picture() -> nn.Sequential:
    """``(B, 1, 2, 2)`` to ``(B, 4)``."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(12, 4))


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(model: nn.Module, x: Tensor) -> Tensor:
    """``(B,)`` with a tape."""
    return torch.linalg.det(matrices(taped_jacobian(model, x), x))


def error(actual: Tensor, expected: Tensor) -> float:
    return float(((actual - expected).abs().max() / expected.abs().max()).detach())


CASES = {
    **{f"chain{n}": (mlp(n), (5, n)) for n in (1, 2, 3, 4, 7)},
    **{f"topped{n}": (nn.Sequential(mlp(n), nn.GELU()), (5, n)) for n in (1, 2, 3, 4)},
    **{f"residual{n}": (Residual(n), (5, n)) for n in (1, 2, 3, 4, 7)},
    "picture": (picture(), (5, 1, 2, 2)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    model, shape = CASES[request.param]
    return copy.deepcopy(model).double(), points(*shape).requires_grad_()


def test_determinant_and_gradients_are_the_references(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    inputs, expected, weights = [x, *model.parameters()], reference(model, x), points(5, seed=3)
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
                assert torch.equal(mine, his) or error(mine, his) < 1e-9


def test_other_types_batches_and_grad_modes_agree(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    expected = reference(model, x).detach()
    for function, wanted in ((jacobian_det, expected), (lambda *a: slogdet(*a).logabsdet, expected.abs().log())):
        whole = function(model, x)
        assert error(whole, torch.cat([function(model, x[i : i + 1]) for i in range(5)])) < 1e-12
        with torch.no_grad():
            found = function(model, x)
        assert not found.requires_grad
        assert torch.equal(found, whole.detach()) or function is not jacobian_det
        single = function(copy.deepcopy(model).float(), x.detach().float())
        assert single.dtype == torch.float32
        assert error(single.double(), wanted) < 1e-5
    assert not jacobian_det(model.requires_grad_(False), x.detach()).requires_grad


def test_input_that_is_not_contiguous_gives_the_same() -> None:
    net, x = mlp(3).double(), points(3, 10).t()
    for inputs in (x, points(10, 6)[:, ::2]):
        assert torch.equal(jacobian_det(net, inputs), jacobian_det(net, inputs.contiguous()))


def test_function_of_several_dimensions_is_flattened() -> None:
    x = points(4, 2, 2)
    det = jacobian_det(lambda t: torch.stack([t[:, 0] ** 2, t[:, 0] * t[:, 1]], 1), x)
    assert error(det, 4 * x[:, 0].prod(1).square()) < 1e-12


def test_logarithm_neither_overflows_nor_underflows() -> None:
    for n, scale in product((2, 3, 5), (1e-30, 1e30)):
        net, x = nn.Sequential(nn.Linear(n, n), nn.Tanh(), nn.Linear(n, n)), points(4, n).float()
        expected = slogdet(net.double(), x.double()).logabsdet + n * math.log(scale)
        with torch.no_grad():
            net[2].weight.mul_(scale)
        for fused in (True, False):
            found = slogdet(net.float(), x, fused=fused).logabsdet
            assert error(found.double(), expected) < 1e-5, (n, scale, fused)


def test_singular_jacobian_has_determinant_zero() -> None:
    for n, fused in product((1, 2, 3, 4), (True, False)):
        net = mlp(n).double()
        with torch.no_grad():
            net[4].weight[0] = 0
        assert torch.equal(jacobian_det(net, points(3, n), fused=fused).detach(), points(3) * 0), (n, fused)
        sign, logabsdet = slogdet(net, points(3, n), fused=fused)
        assert torch.equal(sign, points(3) * 0), (n, fused)
        assert torch.equal(logabsdet.detach(), torch.full_like(sign, -math.inf)), (n, fused)


@pytest.mark.parametrize("fused", [True, False])
def test_determinant_out_of_range_is_refused(fused: bool) -> None:
    net, x = mlp(2), points(3, 2).float()
    with torch.no_grad():
        net[4].weight.mul_(1e30)
        net[4].weight[0].mul_(1e7)
    with pytest.raises(JacobianError, match=r"det=.*inf.*the determinant has 3 entries that are not finite.*slogdet"):
        jacobian_det(net, x, fused=fused)
    assert slogdet(net, x, fused=fused).logabsdet.isfinite().all()


def test_second_derivatives_are_refused_or_right() -> None:
    net, x = mlp(2).double(), points(4, 2).requires_grad_()

    def penalty(det: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(det.square().sum(), x, create_graph=True)
        return gradient.square().sum()

    for function in (jacobian_det, lambda *args: slogdet(*args).logabsdet):
        loss = penalty(function(net, x))
        with pytest.raises(JacobianError, match=r"fused=True: .*second one.*; pass fused=False"):
            loss.backward()
    expected = torch.autograd.grad(penalty(reference(net, x)), [x, net[0].weight, net[0].bias])
    found = torch.autograd.grad(penalty(jacobian_det(net, x, fused=False)), [x, net[0].weight, net[0].bias])
    assert all(error(actual, wanted) < 1e-9 for actual, wanted in zip(found, expected, strict=True))


def test_model_and_input_are_left_as_they_are(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    before, inputs = copy.deepcopy(model.state_dict()), x.detach().clone()
    model.train()
    for fused in (True, False):
        jacobian_det(model, x, fused=fused)
        slogdet(model, x, fused=fused)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(x.detach(), inputs)
    assert x.grad is None
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


NET = mlp(2)
NAN = torch.zeros(3, 2).index_put_((torch.tensor(1), torch.tensor(0)), torch.tensor(math.nan))
BAD = {
    "wide": (nn.Sequential(nn.Linear(2, 3)), torch.zeros(4, 2), r"jacobian=\(3, 2\): .*3 outputs for 2 inputs"),
    "narrow": (nn.Sequential(nn.Linear(4, 2), nn.Tanh()), torch.zeros(4, 4), r"jacobian=\(2, 4\)"),
    "function": (lambda x: x[:, :2] * 2, torch.zeros(4, 5), r"jacobian=\(2, 5\)"),
    "picture": (nn.Flatten(), torch.zeros(0, 1, 2, 2), r"x=\(0, 1, 2, 2\): must be a batch"),
    "batchnorm": (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.zeros(4, 2), r"BatchNorm1d.*model\.eval"),
    "dropout": (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), torch.zeros(4, 2), r"Dropout.*model\.eval"),
    "empty": (NET, torch.zeros(0, 2), r"x=\(0, 2\): must be a batch \(B, \.\.\.\) of at least one sample"),
    "nan": (NET, NAN, r"x=nan: the input has 1 entries that are not finite, the first at \(1, 0\)"),
    "infinite": (NET, torch.full((3, 2), math.inf), r"x=inf: .*6 entries.*\(0, 0\)"),
    "integers": (
        NET,
        torch.zeros(3, 2, dtype=torch.int64),
        r"x=torch\.int64: must be of a real floating-point type",
    ),
    "complex": (NET, torch.zeros(3, 2, dtype=torch.complex64), r"x=torch\.complex64: must be of a real"),
    "list": (NET, [[0.0, 0.0]], r"x=list: must be a tensor"),
    "unbatched": (lambda x: x.sum(0), torch.zeros(3, 2), r"output=\(2,\): must have the batch first"),
    "weights": (nn.Sequential(nn.Linear(1, 1)), torch.zeros(3, 1), r"not finite"),
}
nn.init.constant_(BAD["weights"][0][0].weight, math.nan)


def test_bad_input_is_refused() -> None:
    for (name, (model, x, message)), function, fused in product(BAD.items(), (jacobian_det, slogdet), (True, False)):
        with example(name, function.__name__, fused), pytest.raises(JacobianError, match=message):
            function(model, x, fused=fused)


def test_training_on_the_determinant_preserves_volume() -> None:
    """At most 200 steps of Adam (113 as written) bring the mean of |det - 1| on held-out points below 0.05."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    generator = torch.Generator().manual_seed(1)
    held_out = torch.randn(1000, 2, generator=generator)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)

    def distance() -> float:
        with torch.no_grad():
            return float((jacobian_det(net, held_out) - 1).abs().mean())

    assert distance() > 0.5
    steps = 0
    while distance() > 0.05 and steps < 200:
        optimizer.zero_grad()
        (jacobian_det(net, torch.randn(256, 2, generator=generator)) - 1).square().mean().backward()
        optimizer.step()
        steps += 1
    assert distance() <= 0.05
    assert steps <= 200
