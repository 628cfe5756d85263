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

from nas.jac import jacobian
from nas.jac.gram import gram

WRT = ("input", "parameters")


def parameter_gram(model, parameters, x, y):
    """The product of each sample's gradients by the parameters, ``(B, M, M)``."""
    each = torch.arange(len(x))
    return ntk_references.kernel(model, parameters, x, y)[each, each]


def known_gram(name, *seeds):
    """The product of the Jacobians at the inputs of these seeds."""
    first, second = (matrices(known_jacobian(name, seed), inputs(name)) for seed in seeds)
    return first @ second.mT


@pytest.mark.parametrize("name", MODELS)
def test_gram_equals_the_product_of_two_jacobians(name):
    single, batch = {"dtype": torch.float32}, 2 if name == "encoder" else 5  # attention has no forward derivative
    model, x, y = build(name), inputs(name)[:batch], inputs(name, seed=1)[:batch]
    found, wanted = gram(model, x, y), known_gram(name, 0, 1)[:batch]
    assert not found.requires_grad
    assert error(found, wanted) < 1e-10
    assert error(gram(model, x, x), known_gram(name, 0, 0)[:batch]) < 1e-10
    found = gram(build(name, **single), x.float(), y.float())
    assert found.dtype == torch.float32
    assert error(found, wanted) < 1e-5
    assert error(torch.cat([gram(model, x[i : i + 1], y[i : i + 1]) for i in range(batch)]), wanted) < 1e-10
    if name in ("mlp", "mlp-begins-elementwise", "cnn-1d", "residual", "gated-two", "fft", "sine"):
        for chunk_bytes in (8 * 150, 8 * 400, 2**20):
            assert error(gram(model, x, y, chunk_bytes=chunk_bytes), wanted) < 1e-10


def test_gram_by_the_parameters_is_their_gradients():
    for name in MODULES:
        if name not in ("identity", "recurrent"):
            model, x, y = module(name), inputs(name, 3), inputs(name, 3, seed=1)
            for other in (x, y) if name in ("mlp", "cnn-1d", "twice") else (y,):
                wanted = parameter_gram(model, list(model.parameters()), x.clone(), other.clone())
                for chunk_bytes in (None, 20_000) if other is x else (None,):
                    found = gram(model, x, other, wrt="parameters", chunk_bytes=chunk_bytes)
                    assert error(found, wanted) < 1e-10, name
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    function = lambda x: torch.tanh(F.linear(x, weight)) * weight.sum()  # noqa: E731
    x, y = inputs("linear"), inputs("linear", seed=1)
    assert error(gram(function, x, y, wrt="parameters"), parameter_gram(function, [weight], x, y)) < 1e-10


N, M, CHUNK = 20_000, 10, 2**18


def head():
    return nn.Sequential(nn.Linear(N, 4), nn.Tanh(), nn.Linear(4, M))


WIDE = [
    head,
    lambda: nn.Sequential(nn.Tanh(), nn.ReLU(), *head()),
    lambda: nn.Sequential(nn.Unflatten(1, (1, N)), nn.Conv1d(1, 1, 5, stride=5), nn.Flatten(), nn.Linear(N // 5, M)),
    lambda: (lambda h: lambda x: h(x + torch.sin(x)))(head()),
    lambda: (lambda h: lambda x: h(torch.cumsum(x, 1)))(head()),
]


def test_nothing_as_large_as_a_jacobian_is_made():
    """A Jacobian of one sample takes 800 KB; a chunk 256 KB, or one direction, 80 KB a sample."""
    for (number, make), batch in product(enumerate(WIDE), (1, 3)):
        model, x, y = make(), torch.randn(batch, N), torch.randn(batch, N)
        with Counted() as count, example(number, batch):
            found = gram(model, x, y, chunk_bytes=CHUNK)
        assert found.shape == (batch, M, M)
        assert count.largest_bytes <= max(CHUNK, 4 * N * batch), number
        assert error(found.double(), reference(model, x, y).double()) < 1e-4, number


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


class Counting(nn.Module):
    """A layer that sees how many samples there are."""

    def forward(self, x):
        return torch.tanh(x * torch.arange(1, len(x) + 1)[:, None])


def test_functions_that_count_samples_see_their_own_batch():
    x1, x2 = torch.randn(2, 3, 4, dtype=torch.float64)
    linear = nn.Linear(4, 2, dtype=torch.float64)
    for f in (
        lambda x: torch.tanh(x) / len(x),
        Counting(),
        nn.Sequential(linear, Counting()),
        lambda x: x.sin() + x.size(0),
    ):
        assert error(gram(f, x1, x2), jacobian(f, x1) @ jacobian(f, x2).mT) < 1e-10
