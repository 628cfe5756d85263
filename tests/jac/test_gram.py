"""Products of Jacobians equal those of the dense ones, without anything of their size."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from support import ntk_references
from support.examples import example
from support.jac_references import (
    MODELS,
    MODULES,
    Counted,
    build,
    error,
    inputs,
    known_jacobian,
    matrices,
    module,
    refused,
)
from support.jac_references import gram as reference
from torch import nn

from nas.jac.gram import gram

WRT = ("input", "parameters")
WITH_FORWARD = [name for name, case in MODELS.items() if case.forward]


def parameter_gram(model, parameters, x, y):
    """The product of each sample's gradients by the parameters, ``(B, M, M)``."""
    each = torch.arange(len(x))
    return ntk_references.kernel(model, parameters, x, y)[each, each]


def known_gram(name, *seeds):
    """The product of the Jacobians at the inputs of these seeds."""
    first, second = (matrices(known_jacobian(name, seed), inputs(name)) for seed in seeds)
    return first @ second.mT


def test_gram_equals_the_product_of_two_jacobians():
    single = {"dtype": torch.float32}
    for name in WITH_FORWARD:
        with example(name):
            model, x, y, wanted = build(name), inputs(name), inputs(name, seed=1), known_gram(name, 0, 1)
            found = gram(model, x, y)
            assert not found.requires_grad
            assert error(found, wanted) < 1e-10
            assert error(gram(model, x, x), known_gram(name, 0, 0)) < 1e-10
            found = gram(build(name, **single), inputs(name, **single), inputs(name, seed=1, **single))
            assert found.dtype == torch.float32
            assert error(found, wanted) < 1e-5


def test_gram_does_without_forward_derivatives():
    x, y = inputs("encoder", 2), inputs("encoder", 2, seed=1)
    assert error(gram(build("encoder"), x, y), reference(build("encoder"), x, y)) < 1e-10


def test_batches_budgets_and_single_samples_agree():
    for name in ("mlp", "mlp-begins-elementwise", "cnn-1d", "residual", "gated-two", "fft", "sine"):
        model, x, y, wanted = build(name), inputs(name), inputs(name, seed=1), known_gram(name, 0, 1)
        with example(name):
            single = torch.cat([gram(model, x[i : i + 1], y[i : i + 1]) for i in range(5)])
            assert error(single, wanted) < 1e-11
            for chunk_bytes in (8 * 150, 8 * 400, 2**20):
                assert error(gram(model, x, y, chunk_bytes=chunk_bytes), wanted) < 1e-11


def test_a_function_of_one_batch_size_gets_it():
    scale = torch.linspace(1, 2, 5, dtype=torch.float64)[:, None]
    x, y = inputs("linear"), inputs("linear", seed=1)
    for function in (lambda x: torch.tanh(x * scale), lambda x: torch.tanh(x.view(5, 2, 2)).reshape(5, 4)):
        assert error(gram(function, x, y), reference(function, x, y)) < 1e-12


# By the parameters


def test_gram_by_the_parameters_is_their_gradients():
    for name in MODULES:
        if name not in ("identity", "recurrent"):
            model, x, y = module(name), inputs(name, 3), inputs(name, 3, seed=1)
            wanted = parameter_gram(model, list(model.parameters()), x.clone(), y.clone())
            assert error(gram(model, x, y, wrt="parameters"), wanted) < 1e-10, name
    for name in ("mlp", "cnn-1d", "twice"):
        model, x = module(name), inputs(name, 3)
        wanted = parameter_gram(model, list(model.parameters()), x, x)
        for chunk_bytes in (2**23, 20_000):
            assert error(gram(model, x, x, wrt="parameters", chunk_bytes=chunk_bytes), wanted) < 1e-10, name


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


@pytest.mark.parametrize("name", WIDE)
def test_nothing_as_large_as_a_jacobian_is_made(name):
    """A Jacobian of one sample takes 800 KB; a chunk 256 KB, or one direction, 80 KB a sample."""
    for batch in (1, 3):
        model, x, y = WIDE[name](), torch.randn(batch, N), torch.randn(batch, N)
        with Counted() as count:
            found = gram(model, x, y, chunk_bytes=CHUNK)
        assert found.shape == (batch, M, M)
        assert count.largest_bytes <= max(CHUNK, 4 * N * batch)
        assert error(found.double(), reference(model, x, y).double()) < 1e-4


def test_batches_that_do_not_go_together_are_refused():
    x, network = inputs("linear"), build("linear")
    for other, wrt in product((x[:3], torch.randn(5, 3).double(), torch.randn(5, 4, 1).double()), WRT):
        with refused(r"x2=.*shape of x1, \(5, 4\).*samples are taken in pairs"):
            gram(network, x, other, wrt=wrt)
    for model in (network, lambda x: x.cumsum(1)):
        with refused("float32"):
            gram(model, x, x.float())
    for bad in (torch.ones(5, 4).long(), torch.ones(0, 4), torch.full((5, 4), float("inf")), [1.0]):
        with refused("x2="):
            gram(network, x, bad)
    with refused("input or parameters"):
        gram(network, x, x, wrt="weights")
