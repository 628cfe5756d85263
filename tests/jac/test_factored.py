"""A factored Jacobian is the dense one, whatever is asked of it, and is multiplied out only where it has to be."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import example
from support.jac_references import LAYERWISE, Counted, build, error, inputs, known_jacobian, matrices
from support.jac_references import jacobian as reference
from torch import nn

from nas.jac import FactoredJacobian, JacobianError, jacobian
from nas.jac.errors import BudgetError
from nas.jac.plan.maps import eye


def factored(name, batch=5, seed=0):
    return jacobian(build(name), inputs(name, batch, seed=seed), factored=True)


def linear(*sizes):
    return nn.Linear(*sizes, dtype=torch.float64)


# Against the references


@pytest.mark.parametrize("name", LAYERWISE)
def test_whatever_is_asked_is_the_dense_jacobian(name):
    record, x, wanted = factored(name), inputs(name), known_jacobian(name)
    assert isinstance(record, FactoredJacobian)
    assert record.shape == wanted.shape
    assert error(record.value, build(name)(x.clone())) < 1e-12
    for chunk_bytes in (2**28, 5 * 8 * 200):
        assert error(record.dense(chunk_bytes), wanted) < 1e-10

    j, v, u = matrices(wanted, x), torch.randn_like(record.graph.start.value), torch.randn_like(record.value)
    pushed, pulled = record.mv(v), record.vm(u)
    assert error(pushed, torch.einsum("bmn,bn->bm", j, v.reshape(5, -1)).view(u.shape)) < 1e-10
    assert error(pulled, torch.einsum("bmn,bm->bn", j, u.reshape(5, -1)).view(v.shape)) < 1e-10
    forwards, backwards = (u * pushed).flatten(), (pulled * v).flatten()  # pushing is the transpose of pulling
    assert abs(forwards.sum() - backwards.sum()) < 1e-11 * (forwards.abs().sum() + backwards.abs().sum())

    with torch.no_grad():  # directions that are alike for all samples, as one stack for as long as maps allow
        pushed = record.graph.jvp(eye(record.graph.start.width, record.graph.start.shape, x), record.graph.stop)
        pulled = record.graph.vjp(eye(record.graph.stop.width, record.graph.stop.shape, x), record.graph.start)
    assert error(pushed.reshape(len(pushed), j.shape[2], -1).mT.expand(5, -1, -1), j) < 1e-10
    assert error(pulled.reshape(len(pulled), j.shape[1], -1).expand(5, -1, -1), j) < 1e-10

    other, k = factored(name, seed=1), matrices(known_jacobian(name, seed=1), x)
    for chunk_bytes in (2**23, 5 * 8 * 200):
        assert error(record.gram(other, chunk_bytes), j @ k.mT) < 1e-10
    assert error(record.gram(record), j @ j.mT) < 1e-10


@st.composite
def programs(draw):
    """Steps of a random graph: what to do, and with which of the values so far; and how many inputs there are."""
    steps = st.tuples(
        st.sampled_from(["linear", "tanh", "relu", "add", "mul", "cat", "slice", "reuse"]), *[st.integers(0, 50)] * 3
    )
    return draw(st.integers(1, 5)), draw(st.lists(steps, min_size=1, max_size=9)), draw(st.integers(1, 5))


def network_of(program, seed):
    """The function that the steps of a program make, ending in a Linear; weights are drawn by ``seed``."""
    _, steps, outputs = program

    def function(x):
        generator, values = torch.Generator().manual_seed(seed), [x]

        def layer(value, out):
            weight = torch.randn(out, value.shape[1], generator=generator, dtype=torch.float64)
            return F.linear(value, weight / value.shape[1] ** 0.5)

        for operation, i, j, size in steps:
            a, b = values[-1 - i % min(2, len(values))], values[j % len(values)]
            values.append(
                {
                    "linear": lambda a=a, size=size: layer(a, 1 + size % 6),
                    "tanh": lambda a=a: torch.tanh(a),
                    "relu": lambda a=a: torch.relu(a),
                    "add": lambda a=a, b=b: a + layer(b, a.shape[1]),
                    "mul": lambda a=a, b=b: a * (b if b.shape == a.shape else layer(b, a.shape[1])),
                    "cat": lambda a=a, b=b: torch.cat([a, b], 1),
                    "slice": lambda a=a: a[:, : 1 + a.shape[1] // 2],
                    "reuse": lambda a=a, b=b: layer(b, a.shape[1]) - 2 * a,
                }[operation]()
            )
        return layer(values[-1], outputs)

    return function


@settings(max_examples=60, deadline=None)
@given(program=programs(), seed=st.integers(0, 1000))
def test_random_graphs_are_the_dense_jacobian(program, seed):
    """Values that are used often or never, branches that meet late, bottlenecks in between."""
    function, n = network_of(program, seed), program[0]
    x = torch.randn(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    record, j = jacobian(function, x, factored=True), reference(function, x)
    scale = max(1.0, j.abs().max().item())
    v, u = x.cos(), record.value.cos()
    pairs = {
        "dense": (record.dense(), j),
        "in chunks": (record.dense(record.graph.bytes_each), j),
        "mv": (record.mv(v), (j @ v.unsqueeze(2)).squeeze(2)),
        "vm": (record.vm(u), (u.unsqueeze(1) @ j).squeeze(1)),
        "gram": (record.gram(record) / scale, j @ j.mT / scale),
    }
    for name, (ours, wanted) in pairs.items():
        assert (ours - wanted).abs().max() < 1e-11 * scale, name
    if n == program[2]:
        found, wanted = record.logabsdet(), torch.linalg.slogdet(j)[1]
        regular = wanted > -10
        assert torch.allclose(found[regular], wanted[regular], rtol=0, atol=1e-8)
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


SQUARE = {
    "chain": lambda: nn.Sequential(linear(4, 4), nn.Tanh(), linear(4, 4), nn.Sigmoid(), linear(4, 4)),
    "leaky": lambda: nn.Sequential(nn.LeakyReLU(0.1), linear(4, 4), nn.ELU(), nn.Softplus(), nn.Unflatten(1, (2, 2))),
    "widens and narrows": lambda: nn.Sequential(
        linear(4, 4), nn.Tanh(), linear(4, 9), nn.Tanh(), linear(9, 4), nn.Tanh()
    ),
    "one Linear": lambda: linear(4, 4),
    "identity": nn.Identity,
    "shift": lambda: lambda x: x + 3,
    "negated": lambda: lambda x: 1 - 2 * x,
    "residual block": Block,
    "residual blocks": lambda: nn.Sequential(*(Block() for _ in range(3))),
    "branches of branches": lambda: (lambda block, layer: lambda x: torch.tanh(block(x) + layer(torch.sin(block(x)))))(
        Block(), linear(4, 4)
    ),
    "coupling": lambda: coupling,
    "tokens": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), linear(2, 2), nn.Flatten(), nn.Tanh(), linear(4, 4)),
    "one token": lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), linear(4, 4), nn.Tanh()),
    "permuted": lambda: lambda x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1) * 2,
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(4, dtype=torch.float64), linear(4, 4)).eval(),
}


def test_logabsdet_is_that_of_the_dense_jacobian():
    cases = [(name, make(), (4,)) for name, make in SQUARE.items()]
    cases += [(f"samples {shape}", lambda x: torch.sin(x) * 2 + x, shape) for shape in ((1,), (), (2, 2, 1))]
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
    with pytest.raises(JacobianError, match=r"\(3, 4\).*square"):
        jacobian(linear(4, 3), x, factored=True).logabsdet()
    with pytest.raises(JacobianError, match=r"\(12, 4\).*square"):
        jacobian(nn.Sequential(linear(4, 12), nn.Unflatten(1, (3, 4))), x, factored=True).logabsdet()


WIDTH, BATCH = 40, 300
LONG = {
    "Linear and elementwise": lambda: nn.Sequential(*(m for _ in range(3) for m in (linear(WIDTH, WIDTH), nn.Tanh()))),
    "ReLU, dropout, batch norm": lambda: nn.Sequential(
        linear(WIDTH, WIDTH),
        nn.LeakyReLU(),
        nn.Dropout(),
        nn.BatchNorm1d(WIDTH, dtype=torch.float64),
        linear(WIDTH, WIDTH),
    ).eval(),
    "shifts": lambda: (lambda layer: lambda x: torch.tanh(layer(x) + 1) - 2)(linear(WIDTH, WIDTH)),
}


def test_a_square_chains_determinant_needs_no_dense_jacobian():
    for name, make in LONG.items():
        record = jacobian(make(), torch.randn(BATCH, WIDTH, dtype=torch.float64), factored=True)
        with Counted() as count:
            record.logabsdet()
        assert count.largest_bytes <= 2 * 8 * BATCH * WIDTH, name  # a dense one is 20 times that
        assert count.multiply_adds == 0, name


def test_logabsdet_needs_no_budget(monkeypatch):
    """None can be given, so none may be exceeded: one direction of the batch takes more than a chunk."""
    monkeypatch.setattr("nas.jac.factored.CHUNK_BYTES", 2**10)
    model = nn.Sequential(nn.Linear(2, 60), nn.Tanh(), nn.Linear(60, 2))
    assert jacobian(model, torch.randn(14, 2), factored=True).logabsdet().shape == (14,)


# What can go wrong


def test_what_does_not_go_together_is_refused():
    record = factored("linear")
    for call, vector in ((record.mv, torch.ones(5, 3)), (record.vm, torch.ones(5, 4)), (record.mv, torch.ones(4))):
        with pytest.raises(JacobianError, match=r"shape \(5, "):
            call(vector.double())
    for call, vector in ((record.mv, torch.ones(5, 4)), (record.vm, torch.ones(5, 3))):
        with pytest.raises(JacobianError, match="float32"):
            call(vector)
    for other in (factored("mlp", 5), factored("linear", 4)):
        with pytest.raises(JacobianError, match=r"\(5, 4\), \("):
            record.gram(other)


def test_a_refused_budget_says_what_is_enough():
    record = factored("cnn-same")
    for call in (record.dense, lambda chunk_bytes: record.gram(record, chunk_bytes)):
        with pytest.raises(BudgetError, match="chunk_bytes=") as caught:
            call(10)
        assert torch.isfinite(call(caught.value.needed)).all()
        with pytest.raises(BudgetError):
            call(caught.value.needed - 1)


# Tapes, and what is not finite


def square():
    return nn.Sequential(linear(4, 4), nn.Tanh(), linear(4, 4)), torch.randn(5, 4, dtype=torch.float64)


@pytest.mark.parametrize("call", ["dense", "mv", "vm", "gram", "logabsdet"])
def test_no_nan_and_no_tape_is_handed_on(call):
    model, x = square()
    record = jacobian(model, x.requires_grad_(), factored=True)
    arguments = {"mv": (x.detach(),), "vm": (x.detach(),), "gram": (record,)}.get(call, ())
    assert not getattr(record, call)(*arguments).requires_grad
    assert not record.value.requires_grad
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    record = jacobian(model, x, factored=True)
    arguments = {"mv": (x.detach(),), "vm": (x.detach(),), "gram": (record,)}.get(call, ())
    with pytest.raises(JacobianError):
        getattr(record, call)(*arguments)


def test_with_create_graph_products_have_the_tape():
    model, x = square()
    x.requires_grad_()
    record = jacobian(model, x, factored=True, create_graph=True)
    j = jacobian(model, x, mode="reverse", create_graph=True)
    v = torch.randn(5, 4, dtype=torch.float64)
    pairs = {
        "dense": (record.dense(), j),
        "mv": (record.mv(v), torch.einsum("bmn,bn->bm", j, v)),
        "vm": (record.vm(v), torch.einsum("bmn,bm->bn", j, v)),
        "gram": (record.gram(record), j @ j.mT),
        "logabsdet": (record.logabsdet(), torch.linalg.slogdet(j)[1]),
    }
    leaves = [x, *model.parameters()]
    for name, (ours, theirs) in pairs.items():
        weights = torch.linspace(1, 2, ours.numel(), dtype=torch.float64).view(ours.shape)
        gradients = [
            torch.autograd.grad((value * weights).sum(), leaves, retain_graph=True, materialize_grads=True)
            for value in (ours, theirs)
        ]
        for mine, his in zip(*gradients, strict=True):
            assert error(mine, his) < 1e-9, name
