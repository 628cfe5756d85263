"""A factored Jacobian is the dense one, whatever is asked of it, and is multiplied out only where it has to be."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import calls, example
from support.jac_references import LAYERWISE, Counted, build, error, inputs, known_jacobian, matrices, refused
from support.jac_references import jacobian as reference
from torch import nn

from nas.jac import FactoredJacobian, jacobian
from nas.jac.errors import BudgetError


def factored(name, batch=5, seed=0):
    return jacobian(build(name), inputs(name, batch, seed=seed), factored=True)


def linear(*sizes):
    return nn.Linear(*sizes, dtype=torch.float64)


def questions(record, v, u):
    """What can be asked of a record, with vectors at its input and output."""
    products = {"mv": partial(record.mv, v), "vm": partial(record.vm, u), "gram": partial(record.gram, record)}
    return {"dense": record.dense, "logabsdet": record.logabsdet, **products}


def answers(j, v, u):
    """The same of dense matrices."""
    products = {"mv": torch.einsum("bmn,bn->bm", j, v), "vm": torch.einsum("bmn,bm->bn", j, u), "gram": j @ j.mT}
    square = {"logabsdet": torch.linalg.slogdet(j)[1]} if j.shape[1] == j.shape[2] else {}
    return {"dense": j, **products, **square}


# Against the references


@pytest.mark.parametrize("name", LAYERWISE)
def test_whatever_is_asked_is_the_dense_jacobian(name):
    record, x, wanted = factored(name), inputs(name), known_jacobian(name)
    assert isinstance(record, FactoredJacobian)
    assert record.shape == wanted.shape
    assert error(record.value, build(name)(x.clone())) < 1e-12
    for chunk_bytes in (2**28, 5 * 8 * 200):
        assert error(record.dense(chunk_bytes), wanted) < 1e-10

    j, v, u = matrices(wanted, x), torch.randn_like(x), torch.randn_like(record.value)
    asked = questions(record, v, u)
    for question, theirs in answers(j, v.reshape(5, -1), u.reshape(5, -1)).items():
        if question != "logabsdet":
            assert error(asked[question]().reshape(theirs.shape), theirs) < 1e-10
    other, k = factored(name, seed=1), matrices(known_jacobian(name, seed=1), x)
    for chunk_bytes in (2**23, 5 * 8 * 200):
        assert error(record.gram(other, chunk_bytes), j @ k.mT) < 1e-10


STEPS = [
    lambda a, b, size, layer: layer(a, 1 + size % 6),
    lambda a, b, size, layer: torch.tanh(a),
    lambda a, b, size, layer: torch.relu(a),
    lambda a, b, size, layer: a + layer(b, a.shape[1]),
    lambda a, b, size, layer: a * (b if b.shape == a.shape else layer(b, a.shape[1])),
    lambda a, b, size, layer: torch.cat([a, b], 1),
    lambda a, b, size, layer: a[:, : 1 + a.shape[1] // 2],
    lambda a, b, size, layer: layer(b, a.shape[1]) - 2 * a,
]
PROGRAMS = st.lists(st.tuples(st.integers(0, len(STEPS) - 1), *[st.integers(0, 50)] * 3), min_size=1, max_size=9)


def network_of(program, outputs, seed):
    """The function that steps make, each on some of the values so far, ending in a Linear; ``seed`` draws weights."""

    def function(x):
        generator, values = torch.Generator().manual_seed(seed), [x]

        def layer(value, out):
            weight = torch.randn(out, value.shape[1], generator=generator, dtype=torch.float64)
            return F.linear(value, weight / value.shape[1] ** 0.5)

        for step, i, j, size in program:
            a, b = values[-1 - i % min(2, len(values))], values[j % len(values)]
            values.append(STEPS[step](a, b, size, layer))
        return layer(values[-1], outputs)

    return function


@settings(max_examples=60, deadline=None)
@given(program=PROGRAMS, n=st.integers(1, 5), outputs=st.integers(1, 5), seed=st.integers(0, 1000))
def test_random_graphs_are_the_dense_jacobian(program, n, outputs, seed):
    """Values that are used often or never, branches that meet late, bottlenecks in between."""
    function = network_of(program, outputs, seed)
    x = torch.randn(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    record, j = jacobian(function, x, factored=True), reference(function, x)
    scale = max(1.0, j.abs().max().item())
    asked, wanted = questions(record, x.cos(), record.value.cos()), answers(j, x.cos(), record.value.cos())
    for name in ("dense", "mv", "vm", "gram"):
        assert (asked[name]() - wanted[name]).abs().max() < 1e-11 * max(scale, wanted[name].abs().max()), name
    assert error(record.dense(record.graph.bytes_each), j) < 1e-11 * scale
    if n == outputs:
        found, known = record.logabsdet(), wanted["logabsdet"]
        regular = known > -10
        assert torch.allclose(found[regular], known[regular], rtol=0, atol=1e-8)
        assert (found[~regular] < -9).all()


def test_gram_takes_another_network_of_the_same_inputs():
    x = torch.randn(5, 4, dtype=torch.float64)
    one, other = nn.Sequential(nn.Tanh(), linear(4, 3), nn.ReLU()), nn.Sequential(linear(4, 6), nn.Unflatten(1, (2, 3)))
    both = jacobian(one, x, factored=True).gram(jacobian(other, x, factored=True))
    assert error(both, reference(one, x) @ matrices(reference(other, x), x).mT) < 1e-10


# Determinants


class Block(nn.Module):
    """A residual block."""

    def __init__(self):
        super().__init__()
        self.first, self.second = linear(4, 6), linear(6, 4)

    def forward(self, x):
        return x + self.second(torch.tanh(self.first(x)))


def coupling(x):
    """A step of a flow: one half moves the other."""
    a, b = x.chunk(2, 1)
    return torch.cat([a, b * torch.exp(a) + a * a], 1)


BLOCK, LAYER = Block(), linear(4, 4)
SQUARE = [
    LAYER,
    BLOCK,
    nn.Identity(),
    nn.Sequential(linear(4, 4), nn.Tanh(), linear(4, 4), nn.Sigmoid(), linear(4, 4)),
    nn.Sequential(nn.LeakyReLU(0.1), linear(4, 4), nn.ELU(), nn.Softplus(), nn.Unflatten(1, (2, 2))),
    nn.Sequential(linear(4, 4), nn.Tanh(), linear(4, 9), nn.Tanh(), linear(9, 4), nn.Tanh()),
    nn.Sequential(nn.Unflatten(1, (2, 2)), linear(2, 2), nn.Flatten(), nn.Tanh(), linear(4, 4)),
    nn.Sequential(nn.Unflatten(1, (1, 4)), linear(4, 4), nn.Tanh()),
    nn.Sequential(Block(), Block(), Block()),
    nn.Sequential(nn.BatchNorm1d(4, dtype=torch.float64), linear(4, 4)).eval(),
    *calls("x + 3; 1 - 2 * x; x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1) * 2").values(),
    lambda x: torch.tanh(BLOCK(x) + LAYER(torch.sin(BLOCK(x)))),
    coupling,
]


def test_logabsdet_is_that_of_the_dense_jacobian():
    cases = [(number, model, (4,)) for number, model in enumerate(SQUARE)]
    cases += [(shape, lambda x: torch.sin(x) * 2 + x, shape) for shape in ((1,), (), (2, 2, 1))]
    for name, model, shape in cases:
        with example(name):
            x = torch.randn(5, *shape, dtype=torch.float64)
            found = jacobian(model, x, factored=True).logabsdet()
            assert found.shape == (5,)
            wanted = torch.linalg.slogdet(matrices(reference(model, x), x))[1]
            assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-10)


def test_a_singular_jacobians_logabsdet_is_minus_infinity():
    x = torch.randn(6, 4, dtype=torch.float64)
    x[0, 2] = -1.0
    x[1:] = x[1:].abs()
    layer, zero = linear(4, 4), linear(4, 4)
    nn.init.zeros_(zero.weight)
    dead = jacobian(nn.Sequential(nn.ReLU(), layer), x, factored=True).logabsdet()
    assert torch.isneginf(dead).tolist() == [True, *[False] * 5]
    assert torch.isneginf(jacobian(nn.Sequential(layer, nn.Tanh(), zero), x, factored=True).logabsdet()).all()
    assert torch.isneginf(jacobian(lambda x: x * 0, x, factored=True).logabsdet()).all()


def test_only_a_square_jacobian_has_a_determinant():
    x = torch.randn(5, 4, dtype=torch.float64)
    with refused(r"\(3, 4\).*square"):
        jacobian(linear(4, 3), x, factored=True).logabsdet()
    with refused(r"\(12, 4\).*square"):
        jacobian(nn.Sequential(linear(4, 12), nn.Unflatten(1, (3, 4))), x, factored=True).logabsdet()


def test_a_square_chains_determinant_needs_no_dense_jacobian():
    n, batch = 40, 300
    norm, layer = nn.BatchNorm1d(n, dtype=torch.float64), linear(n, n)
    for model in (
        nn.Sequential(*(part for _ in range(3) for part in (linear(n, n), nn.Tanh()))),
        nn.Sequential(linear(n, n), nn.LeakyReLU(), nn.Dropout(), norm, linear(n, n)).eval(),
        lambda x: torch.tanh(layer(x) + 1) - 2,
    ):
        record = jacobian(model, torch.randn(batch, n, dtype=torch.float64), factored=True)
        with Counted() as count:
            record.logabsdet()
        assert count.largest_bytes <= 2 * 8 * batch * n, model  # a dense one is 20 times that
        assert count.multiply_adds == 0, model


def test_logabsdet_needs_no_budget(monkeypatch):
    """None can be given, so none may be exceeded: one direction of the batch takes more than a chunk."""
    monkeypatch.setattr("nas.jac.factored.CHUNK_BYTES", 2**10)
    model = nn.Sequential(nn.Linear(2, 60), nn.Tanh(), nn.Linear(60, 2))
    assert jacobian(model, torch.randn(14, 2), factored=True).logabsdet().shape == (14,)


def test_what_does_not_go_together_is_refused():
    record, wide, tall = factored("linear"), torch.ones(5, 4), torch.ones(5, 3)
    for call, vector, says in (
        (record.mv, tall.double(), r"v=\(.* shape \(5, 4\)"),
        (record.vm, wide.double(), r"u=\(.* shape \(5, 3\)"),
        (record.mv, torch.ones(4).double(), r"shape \(5, 4\)"),
        (record.mv, wide, "float32"),
        (record.vm, tall, "float32"),
        (record.gram, factored("mlp", 5), r"\(5, 4\), \("),
        (record.gram, factored("linear", 4), r"\(5, 4\), \("),
    ):
        with refused(says):
            call(vector)


def test_a_refused_budget_says_what_is_enough():
    record = factored("cnn-same")
    with pytest.raises(BudgetError, match="chunk_bytes=") as caught:
        record.gram(record, 10)
    assert torch.isfinite(record.gram(record, caught.value.needed)).all()
    with pytest.raises(BudgetError):
        record.gram(record, caught.value.needed - 1)


def square():
    """A network, its input and a vector."""
    model = nn.Sequential(linear(4, 4), nn.Tanh(), linear(4, 4))
    return model, torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randn(5, 4, dtype=torch.float64)


@pytest.mark.parametrize("question", ["dense", "mv", "vm", "gram", "logabsdet"])
def test_no_nan_and_no_tape_is_handed_on(question):
    model, x, v = square()
    record = jacobian(model, x, factored=True)
    assert not questions(record, v, v)[question]().requires_grad
    assert not record.value.requires_grad
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with refused():
        questions(jacobian(model, x, factored=True), v, v)[question]()


def test_with_create_graph_products_have_the_tape():
    model, x, v = square()
    asked = questions(jacobian(model, x, factored=True, create_graph=True), v, v)
    for name, theirs in answers(jacobian(model, x, mode="reverse", create_graph=True), v, v).items():
        weights, gradients = torch.linspace(1, 2, theirs.numel()).view(theirs.shape), []
        for value in (asked[name](), theirs):
            leaves = [x, *model.parameters()]
            gradients.append(
                torch.autograd.grad((value * weights).sum(), leaves, retain_graph=True, materialize_grads=True)
            )
        for mine, his in zip(*gradients, strict=True):
            assert error(mine, his) < 1e-9, name
