"""Finite differences pass what is right, and find what is wrong and where."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from support.examples import calls, example
from support.jac_references import jacobian as dense
from support.jac_references import refused
from torch import nn

from nas.jac.check import check

DOUBLE = {"dtype": torch.float64}


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


def test_a_planted_error_is_found_with_its_place():
    column = torch.randperm(288, generator=torch.Generator().manual_seed(5))[3]
    place = tuple(i.item() for i in torch.unravel_index(column, (2, 12, 12)))
    for dtype in (torch.float64, torch.float32):
        model, x = cnn().to(dtype), torch.randn(3, 2, 12, 12, dtype=dtype)
        jac = dense(model, x)
        size, right = jac[1].abs().max().item(), jac[(1, 2, 0, 1, *place)].item()
        jac[(1, 2, 0, 1, *place)] += 0.01 * size
        found = check(model, x, jac, seed=5)
        assert not found.ok
        assert (found.sample, found.output, found.input) == (1, (2, 0, 1), place)
        assert 0.01 <= found.error < 0.05  # of the largest derivative among the columns looked at
        assert found.expected == pytest.approx(right, abs=1e-4 * size)
        assert found.found == pytest.approx(right + 0.01 * size, abs=1e-6 * size)
        said = rf"DIFFERS FROM finite differences: .*sample 1, output \(2, 0, 1\), input {re.escape(str(place))}: .*"
        assert re.fullmatch(said, str(found))


def test_few_columns_are_all_looked_at():
    model, x = mlp().double(), torch.randn(2, 7, **DOUBLE)
    right = dense(model, x)
    for column in range(7):
        jac = right.clone()
        jac[0, 3, column] += 0.1
        found = check(model, x, jac)
        assert (found.columns, found.sample, found.output, found.input) == (7, 0, (3,), (column,))
    assert [bool(check(model, x, factor * right)) for factor in (1, 1.01, -1, 0, 1e9)] == [True] + [False] * 4


def test_columns_are_drawn_from_the_seed():
    model, x = cnn().double(), torch.randn(2, 2, 12, 12, **DOUBLE)
    jac = 1.5 * dense(model, x)
    places = [check(model, x, jac, columns=1, seed=seed).input for seed in range(8)]
    assert places == [check(model, x, jac, columns=1, seed=seed).input for seed in range(8)]
    assert len(set(places)) > 3


def test_functions_of_numbers_and_factored_jacobians():
    x = torch.rand(5, **DOUBLE)
    found = check(torch.sin, x, x.cos())
    assert found.ok
    assert (found.output, found.input, found.columns) == ((), (), 1)

    class Factored:
        def dense(self):
            return 2 * torch.eye(3).expand(5, 3, 3)

    assert check(lambda x: 2 * x, torch.randn(5, 3), Factored()).ok


def test_inputs_get_steps_of_their_size():
    for size in (1e-6, 1.0, 1e6):
        x = size * torch.rand(3, 4, **DOUBLE)
        x[0, 0] = 0
        jac = torch.diag_embed(torch.cos(x / size) / size)
        assert check(lambda x, size=size: torch.sin(x / size), x, jac).error < 1e-8, size


def test_derivatives_too_small_for_differences_are_no_error():
    # Softmax has saturated: what it gives for class 0 is 1 to the last digit.
    x = torch.tensor([[60.0, 0.0, 0.0], [0.0, 0.0, 0.0]], **DOUBLE)
    assert check(nn.Softmax(-1), x, dense(nn.Softmax(-1), x)).ok
    assert check(lambda x: 0 * x, x, torch.zeros(2, 3, 3, **DOUBLE)).error == 0


def test_entries_at_a_kink_are_only_counted():
    x = torch.tensor([[0.0, 1.0, -1.0]], **DOUBLE)
    jac = torch.diag_embed(torch.tensor([[0.3, 1.0, 0.0]], **DOUBLE))
    found = check(torch.relu, x, jac)
    assert found.ok
    assert found.kinks == 3  # the column, with all outputs
    assert "3 entries are at a kink and not judged" in str(found)
    assert not check(torch.relu, x, jac + 0.1).ok
    assert check(torch.relu, x[:, 1:], jac[:, 1:, 1:]).kinks == 0
    with refused("every one of the 1 entries looked at is at a kink"):
        check(torch.relu, x[:, :1], jac[:, :1, :1])


def test_neither_curvature_nor_a_kink_nearby_hinders():
    x, eye = torch.tensor([[1e-6, 1.0]], **DOUBLE), torch.eye(2, **DOUBLE)[None]  # the first step is 6e-6 of 0.7
    found = check(torch.relu, x, eye)
    assert (found.error < 1e-8, found.kinks) == (True, 0)
    assert not check(torch.relu, x, 0.9 * eye).ok
    x = torch.rand(4, 5, **DOUBLE)
    found = check(lambda x: torch.sin(60 * x), x, torch.diag_embed(60 * torch.cos(60 * x)))
    assert (found.ok, found.kinks) == (True, 0)


def test_ties_of_a_max_pooling_are_no_error():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.MaxPool2d(2), nn.Flatten())
    x = torch.zeros(2, 1, 16, 16, **DOUBLE)
    x[:, :, 6:9, 6:9] = torch.rand(2, 1, 3, 3, **DOUBLE)
    found = check(network.double(), x, dense(network, x), columns=64)
    assert found.ok
    assert found.kinks > 0


def test_the_copy_in_float64_is_a_copy():
    model, x = cnn(), torch.randn(2, 2, 12, 12)
    before = copy.deepcopy(model.state_dict())
    assert check(model, x, dense(model, x)).ok
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {value.dtype for value in model.parameters()} == {torch.float32}


COUPLED = """F.batch_norm(x, None, None, training=True); x - x.mean(0)
    torch.cat([x[:3], x[3:4] + 1e-3 * x[1:2], x[4:]])"""


def test_samples_that_influence_each_other_are_refused():
    x = torch.randn(6, 3, **DOUBLE)
    for name, function in calls(COUPLED).items():
        jac = dense(function, x)
        with example(name), refused(r"for sample \d when other samples alone are moved"):
            check(function, x, jac)


linear, keeps = nn.Linear(3, 3), nn.Linear(3, 3)
keeps.product = 2 * keeps.weight  # which cannot be copied
X, EYE = torch.rand(2, 3), torch.eye(3).expand(2, 3, 3)

REFUSED = {
    "shape": (lambda x: x, X, EYE[:1], r"jac=\(1, 3, 3\): must be \(B, \*out, \*in\) = \(2, 3, 3\)"),
    "NaN": (lambda x: x, X, EYE / EYE, r"jac=nan: .* first at \(0, 0, 1\)"),
    "integers": (lambda x: x, X, EYE.long(), r"jac=torch.int64: must be"),
    "nothing": (lambda x: x, X, None, r"jac=NoneType: must be a tensor"),
    "no columns": (lambda x: x, X, EYE, r"columns=0: must be at least 1"),
    "not batched": (lambda x: x[0], X, EYE, r"output=\(3,\): must have the batch first: 2 samples went in"),
    "float32 inside": (lambda x: linear(x), X, EYE, r"model_or_fn=<lambda>: does not run on float64 input .*"),
    "no copy": (keeps, X, EYE, r"model_or_fn=Linear: cannot be copied \(Only Tensors created explicitly .*"),
    "float32 out": (lambda x: x.float(), X, EYE, r"model_or_fn=<lambda>: turns float64 input into torch.float32"),
    "at random": (lambda x: F.dropout(x), X, EYE, r"model_or_fn=<lambda>: .* when it is called again"),
    "NaN out": (torch.log, -X, EYE, r"output=nan: .* first at \(0, 0\)"),
}


def test_what_cannot_be_checked_is_refused():
    for name, (function, x, jac, message) in REFUSED.items():
        with example(name), refused(f"^{message}"):
            check(function, x, jac, columns=0 if name == "no columns" else 16)
