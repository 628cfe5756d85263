"""Products of Jacobians equal those of the dense ones, without anything of their size."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.jac_references import MODELS, MODULES, Counted, build, error, inputs, module, parameter_gram
from support.jac_references import gram as reference
from torch import nn

from nas.jac import JacobianError
from nas.jac.errors import BudgetError
from nas.jac.gram import gram

WITH_FORWARD = [name for name, case in MODELS.items() if case.forward]


@pytest.mark.parametrize("name", WITH_FORWARD)
def test_gram_equals_the_product_of_two_jacobians(name):
    x, y = inputs(name), inputs(name, seed=1)
    wanted = reference(build(name), x, y)
    found = gram(build(name), x, y)
    assert not found.requires_grad
    assert error(found, wanted) < 1e-10
    assert error(gram(build(name), x, x), reference(build(name), x, x)) < 1e-10


@pytest.mark.parametrize("name", WITH_FORWARD)
def test_gram_in_float32_is_that_of_float64_to_rounding(name):
    single = {"dtype": torch.float32}
    found = gram(build(name, **single), inputs(name, **single), inputs(name, seed=1, **single))
    assert found.dtype == torch.float32
    assert error(found, reference(build(name), inputs(name), inputs(name, seed=1))) < 1e-5


def test_gram_does_without_forward_derivatives_where_there_are_none():
    x, y = inputs("encoder", 2), inputs("encoder", 2, seed=1)
    assert error(gram(build("encoder"), x, y), reference(build("encoder"), x, y)) < 1e-10


@pytest.mark.parametrize("name", ["mlp", "mlp-begins-elementwise", "cnn-1d", "residual", "gated-two", "fft", "sine"])
def test_batches_and_budgets_of_any_size_give_the_same_gram(name):
    model, x, y = build(name), inputs(name), inputs(name, seed=1)
    whole = gram(model, x, y)
    single = torch.cat([gram(model, x[i : i + 1], y[i : i + 1]) for i in range(5)])
    assert error(single, whole) < 1e-12
    for chunk_bytes in (8 * 150, 8 * 400, 2**20):
        assert error(gram(model, x, y, chunk_bytes=chunk_bytes), whole) < 1e-12


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ["mlp", "pooling", "fft"])
def test_the_grad_mode_around_does_not_matter(name, around):
    x, y = inputs(name), inputs(name, seed=1)
    wanted = reference(build(name), x, y)
    with around():
        for first in (x, x * 1, x.clone().requires_grad_()):
            assert error(gram(build(name), first, y), wanted) < 1e-12


@pytest.mark.parametrize("name", ["mlp", "cnn-stride", "tokens"])
def test_inputs_need_not_be_contiguous(name):
    model, x, y = build(name), inputs(name), inputs(name, seed=1)
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    assert not turned.is_contiguous()
    assert error(gram(model, turned, y), gram(model, x, y)) < 1e-12


@pytest.mark.parametrize("wrt", ["input", "parameters"])
def test_network_and_inputs_are_left_bit_for_bit(wrt):
    for name in ("batch-norm", "residual-in-place", "in-place-first"):
        model, x, y = module(name), inputs(name), inputs(name, seed=1)
        before, x_before, y_before = copy.deepcopy(model.state_dict()), x.clone(), y.clone()
        gram(model, x, y, wrt=wrt)
        assert torch.equal(x, x_before)
        assert torch.equal(y, y_before)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())


def test_an_in_place_operation_at_the_input_of_what_has_no_rule_does_not_reach_x():
    x, y = inputs("linear"), inputs("linear", seed=1)
    before, function = x.clone(), lambda x: x.mul_(2).cumsum(1)
    found = gram(function, x, y)
    assert torch.equal(x, before)
    assert error(found, reference(function, x, y)) < 1e-12


@pytest.mark.parametrize("name", ["linear", "identity", "mlp"])
def test_the_result_may_be_written_into(name):
    x = inputs(name)
    found = gram(build(name), x, x)
    other = found[-1].clone()
    found[0] = 7.0
    assert torch.equal(found[-1], other)


# By the parameters


@pytest.mark.parametrize("name", [n for n in MODULES if n not in ("identity", "recurrent")])
def test_gram_by_the_parameters_equals_that_of_their_gradients(name):
    model, x, y = module(name), inputs(name, 3), inputs(name, 3, seed=1)
    wanted = parameter_gram(model, list(model.parameters()), x.clone(), y.clone())
    assert error(gram(model, x, y, wrt="parameters"), wanted) < 1e-10


@pytest.mark.parametrize("name", ["mlp", "cnn-1d", "twice"])
def test_gram_by_the_parameters_of_one_batch_in_chunks(name):
    model, x = module(name), inputs(name, 3)
    wanted = parameter_gram(model, list(model.parameters()), x, x)
    for chunk_bytes in (2**23, 20_000):
        assert error(gram(model, x, x, wrt="parameters", chunk_bytes=chunk_bytes), wanted) < 1e-10


def test_gram_by_the_parameters_of_a_plain_function():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    function = lambda x: torch.tanh(F.linear(x, weight)) * weight.sum()  # noqa: E731
    x, y = inputs("linear"), inputs("linear", seed=1)
    assert error(gram(function, x, y, wrt="parameters"), parameter_gram(function, [weight], x, y)) < 1e-10


# Memory

N, M, CHUNK = 20_000, 10, 2**18


def head():
    return nn.Sequential(nn.Linear(N, 4), nn.Tanh(), nn.Linear(4, M))


WIDE = {
    "begins with a Linear": head,
    "begins elementwise": lambda: nn.Sequential(nn.Tanh(), nn.ReLU(), *head()),
    "convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (1, N)), nn.Conv1d(1, 1, 5, stride=5), nn.Tanh(), nn.Flatten(), nn.Linear(N // 5, M)
    ),
    "residual": lambda: (lambda h: lambda x: h(x + torch.sin(x)))(head()),
    "no rule": lambda: (lambda h: lambda x: h(torch.cumsum(x, 1)))(head()),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", WIDE)
def test_nothing_as_large_as_a_jacobian_is_made(name, batch):
    """A Jacobian of one sample takes 800 KB; a chunk 256 KB, or one direction, 80 KB a sample."""
    model, x, y = WIDE[name](), torch.randn(batch, N), torch.randn(batch, N)
    with Counted() as count:
        found = gram(model, x, y, chunk_bytes=CHUNK)
    assert found.shape == (batch, M, M)
    assert count.largest_bytes <= max(CHUNK, 4 * N * batch)
    assert error(found.double(), reference(model, x, y).double()) < 1e-4


# What can go wrong


def network():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_batches_that_cannot_be_paired_are_refused():
    x = inputs("linear")
    for other in (x[:3], torch.randn(5, 3).double(), torch.randn(5, 4, 1).double()):
        for wrt in ("input", "parameters"):
            with pytest.raises(JacobianError, match=r"x2=.*shape of x1, \(5, 4\)"):
                gram(network(), x, other, wrt=wrt)


@pytest.mark.parametrize("model", [network(), lambda x: x.cumsum(1)], ids=["rules", "no-rules"])
def test_batches_of_two_types_are_refused(model):
    with pytest.raises(JacobianError, match="float32"):
        gram(model, inputs("linear"), inputs("linear").float())


@pytest.mark.parametrize("bad", [torch.ones(5, 4).long(), torch.ones(0, 4), torch.full((5, 4), float("inf")), [1.0]])
@pytest.mark.parametrize("place", [0, 1])
def test_bad_inputs_are_refused_by_name(bad, place):
    batches = [inputs("linear"), inputs("linear")]
    batches[place] = bad
    with pytest.raises(JacobianError, match=f"x{place + 1}="):
        gram(network(), *batches)


def test_an_unknown_wrt_is_refused():
    with pytest.raises(JacobianError, match="input or parameters"):
        gram(network(), inputs("linear"), inputs("linear"), wrt="weights")


@pytest.mark.parametrize("wrt", ["input", "parameters"])
@pytest.mark.parametrize(
    "model",
    [
        network(),
        nn.Sequential(nn.Tanh(), network()),
        nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 3).double(), nn.Flatten()),
    ],
)
def test_a_budget_too_small_for_one_sample_says_what_is_needed_and_that_is_enough(model, wrt):
    x, y = inputs("linear"), inputs("linear", seed=1)
    with pytest.raises(BudgetError, match="chunk_bytes=") as caught:
        gram(model, x, y, wrt=wrt, chunk_bytes=1)
    found = gram(model, x, y, wrt=wrt, chunk_bytes=caught.value.needed)
    assert error(found, gram(model, x, y, wrt=wrt)) < 1e-12


@pytest.mark.parametrize("wrt", ["input", "parameters"])
def test_training_mode_is_refused(wrt):
    for layer in (nn.BatchNorm1d(4), nn.Dropout()):
        model = nn.Sequential(nn.Linear(4, 4), layer).double().train()
        with pytest.raises(JacobianError, match=r"model\.eval\(\)"):
            gram(model, inputs("linear"), inputs("linear"), wrt=wrt)


@pytest.mark.parametrize("wrt", ["input", "parameters"])
def test_no_nan_is_handed_on(wrt):
    model = network()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(JacobianError):
        gram(model, inputs("linear"), inputs("linear"), wrt=wrt)
    with pytest.raises(JacobianError):
        gram(lambda x: torch.sqrt(x * 0), inputs("linear"), inputs("linear"))
