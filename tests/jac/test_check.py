"""Finite differences pass what is right, and find what is wrong and where."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from support.examples import example
from support.jac_references import jacobian as dense
from torch import nn

from nas.jac.check import check
from nas.jac.errors import JacobianError


def mlp():
    return nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 5), nn.Softmax(-1))


def cnn():
    parts = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 3, 3), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2)).eval()


@pytest.mark.parametrize(("make", "shape"), [(mlp, (7,)), (cnn, (2, 12, 12))])
def test_a_right_jacobian_passes(make, shape):
    for seed, dtype in enumerate([torch.float64, torch.float32] * 2):
        torch.manual_seed(seed)
        model, x = make().to(dtype), torch.randn(4, *shape, dtype=dtype)
        found = check(model, x, dense(model, x), seed=seed)
        assert found.ok
        assert found.error < (1e-7 if dtype == torch.float64 else 1e-4)
        assert found.columns == min(16, x[0].numel())
        assert "agrees with finite differences" in str(found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_planted_error_is_found_with_its_place(dtype):
    model, x = cnn().to(dtype), torch.randn(3, 2, 12, 12, dtype=dtype)
    jac = dense(model, x)
    size = jac[1].abs().max().item()
    column = torch.randperm(288, generator=torch.Generator().manual_seed(5))[3].item()
    place = tuple(i.item() for i in torch.unravel_index(torch.tensor(column), (2, 12, 12)))
    right = jac[(1, 2, 0, 1, *place)].item()
    jac[(1, 2, 0, 1, *place)] += 0.01 * size
    found = check(model, x, jac, seed=5)
    assert not found.ok
    assert (found.sample, found.output, found.input) == (1, (2, 0, 1), place)
    assert 0.01 <= found.error < 0.05  # of the largest derivative among the columns looked at
    assert found.expected == pytest.approx(right, abs=1e-4 * size)
    assert found.found == pytest.approx(right + 0.01 * size, abs=1e-6 * size)
    assert "DIFFERS FROM finite differences" in str(found)
    assert f"sample 1, output (2, 0, 1), input {place}" in str(found)
    assert "\n" not in str(found)


def test_few_columns_are_all_looked_at():
    model, x = mlp().double(), torch.randn(2, 7, dtype=torch.float64)
    for column in range(7):
        jac = dense(model, x)
        jac[0, 3, column] += 0.1
        found = check(model, x, jac)
        assert (found.columns, found.sample, found.output, found.input) == (7, 0, (3,), (column,))


def test_columns_are_drawn_from_the_seed():
    model, x = cnn().double(), torch.randn(2, 2, 12, 12, dtype=torch.float64)
    jac = 1.5 * dense(model, x)
    places = [check(model, x, jac, columns=1, seed=seed).input for seed in range(8)]
    assert places == [check(model, x, jac, columns=1, seed=seed).input for seed in range(8)]
    assert len(set(places)) > 3


def test_a_jacobian_that_is_wrong_everywhere_fails():
    model, x = mlp().double(), torch.randn(2, 7, dtype=torch.float64)
    for factor in (1.01, -1, 0, 1e9):
        found = check(model, x, factor * dense(model, x))
        assert not found.ok, factor
        assert not found, factor
    assert check(model, x, dense(model, x))


def test_functions_of_numbers_and_factored_jacobians():
    x = torch.rand(5, dtype=torch.float64)
    found = check(torch.sin, x, x.cos())
    assert found.ok
    assert (found.output, found.input, found.columns) == ((), (), 1)

    class Factored:
        def dense(self):
            return 2 * torch.eye(3).expand(5, 3, 3)

    assert check(lambda x: 2 * x, torch.randn(5, 3), Factored()).ok


def test_inputs_get_steps_of_their_size():
    for size in (1e-6, 1.0, 1e6):
        x = size * torch.rand(3, 4, dtype=torch.float64)
        x[0, 0] = 0
        jac = torch.diag_embed(torch.cos(x / size) / size)
        assert check(lambda x, size=size: torch.sin(x / size), x, jac).error < 1e-8, size


def test_derivatives_too_small_for_differences_are_no_error():
    # Softmax has saturated: what it gives for class 0 is 1 to the last digit.
    x = torch.tensor([[60.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = check(nn.Softmax(-1), x, dense(nn.Softmax(-1), x))
    assert found.ok
    constant = check(lambda x: 0 * x, x, torch.zeros(2, 3, 3, dtype=torch.float64))
    assert constant.error == 0


def test_entries_at_a_kink_are_only_counted():
    x = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64)
    jac = torch.diag_embed(torch.tensor([[0.3, 1.0, 0.0]], dtype=torch.float64))
    found = check(torch.relu, x, jac)
    assert found.ok
    assert found.kinks == 3  # the column, with all outputs
    assert "3 entries are at a kink and not judged" in str(found)
    assert not check(torch.relu, x, jac + 0.1).ok
    assert check(torch.relu, x[:, 1:], jac[:, 1:, 1:]).kinks == 0
    with pytest.raises(JacobianError, match="every one of the 1 entries looked at is at a kink"):
        check(torch.relu, x[:, :1], jac[:, :1, :1])


def test_a_kink_beside_the_point_is_no_hindrance():
    x = torch.tensor([[1e-6, 1.0]], dtype=torch.float64)  # the step is 6e-6 of 0.7
    found = check(torch.relu, x, torch.eye(2, dtype=torch.float64)[None])
    assert found.error < 1e-8
    assert found.kinks == 0
    assert not check(torch.relu, x, 0.9 * torch.eye(2, dtype=torch.float64)[None]).ok


def test_curvature_is_not_taken_for_a_kink():
    x = torch.rand(4, 5, dtype=torch.float64)
    found = check(lambda x: torch.sin(60 * x), x, torch.diag_embed(60 * torch.cos(60 * x)))
    assert found.ok
    assert found.kinks == 0


def test_ties_of_a_max_pooling_are_no_error():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.MaxPool2d(2), nn.Flatten())
    x = torch.zeros(2, 1, 16, 16, dtype=torch.float64)
    x[:, :, 6:9, 6:9] = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    found = check(network.double(), x, dense(network, x), columns=64)
    assert found.ok
    assert found.kinks > 0


def test_module_and_input_are_left_unchanged():
    model, x = cnn(), torch.randn(2, 2, 12, 12, requires_grad=True)
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    check(model, x, dense(model, x))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not model[0].weight.requires_grad
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert x.grad is None


def test_operations_in_place_do_not_move_the_point():
    x = torch.rand(2, 3)
    before = x.clone()
    assert check(lambda x: x.mul_(2), x, 2 * torch.eye(3).expand(2, 3, 3)).ok
    assert torch.equal(x, before)


def moves_one_other(x):
    return torch.cat([x[:3], x[3:4] + 1e-3 * x[1:2], x[4:]])


COUPLED = {
    "batch statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "the mean": lambda x: x - x.mean(0),
    "one pair": moves_one_other,
}


def test_samples_that_influence_each_other_are_refused():
    x = torch.randn(6, 3, dtype=torch.float64)
    for name, function in COUPLED.items():
        jac = dense(function, x)
        with example(name), pytest.raises(JacobianError, match=r"for sample \d when other samples alone are moved"):
            check(function, x, jac)


linear = nn.Linear(3, 3)
X, EYE = torch.rand(2, 3), torch.eye(3).expand(2, 3, 3)

REFUSED = {
    "shape": (lambda x: x, X, EYE[:1], r"jac=\(1, 3, 3\): must be \(B, \*out, \*in\) = \(2, 3, 3\)"),
    "transposed": (lambda x: x[:, :2], X, EYE[:, :, :2], r"jac=\(2, 3, 2\): must be .* = \(2, 2, 3\)"),
    "NaN": (lambda x: x, X, EYE / EYE, r"jac=nan: .* first at \(0, 0, 1\)"),
    "integers": (lambda x: x, X, EYE.long(), r"jac=torch.int64: must be"),
    "no columns": (lambda x: x, X, EYE, r"columns=0: must be at least 1"),
    "not batched": (lambda x: x[0], X, EYE, r"output=\(3,\): must have the batch first: 2 samples went in"),
    "sum over the batch": (lambda x: x.sum(), X, EYE, r"output=\(\): must have the batch first"),
    "float32 inside": (lambda x: linear(x), X, EYE, r"model_or_fn=<lambda>: does not run on float64 input .*"),
    "float32 out": (lambda x: x.float(), X, EYE, r"model_or_fn=<lambda>: turns float64 input into torch.float32"),
    "at random": (lambda x: F.dropout(x), X, EYE, r"model_or_fn=<lambda>: .* when it is called again"),
    "train mode": (nn.BatchNorm1d(3), X, EYE, r"model=model \(BatchNorm1d\): couples"),
    "dropout": (nn.Dropout(), X, EYE, r"model=model \(Dropout\): draws random numbers"),
    "NaN out": (torch.log, -X, EYE, r"output=nan: .* first at \(0, 0\)"),
    "NaN in": (lambda x: x, X / 0 * 0, EYE, r"x=nan: .* first at \(0, 0\)"),
    "integers in": (lambda x: x, X.long(), EYE, r"x=torch.int64: "),
    "empty": (lambda x: x, X[:0], EYE[:0], r"x=\(0, 3\): "),
}


def test_what_cannot_be_checked_is_refused():
    for name, (function, x, jac, message) in REFUSED.items():
        with example(name):
            with pytest.raises(JacobianError) as error:
                check(function, x, jac, columns=0 if name == "no columns" else 16)
            assert re.match(message, str(error.value)), error.value
            assert "\n" not in str(error.value)
