"""The kernel of all outputs: equal to the slow reference for every model, method and division of the work."""

import math
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ntk_references as reference
from support.examples import example
from support.jac_references import Counted, Gated, chains
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.jac.errors import BudgetError, JacobianError
from nas.jac.kernels import blocks
from nas.jac.kernels import survey as survey_room
from nas.jac.kernels.features import Feature, add_products, write_rows
from nas.jac.kernels.record import Sizes
from nas.jac.kernels.survey import Layer, Work, flops_of_factors, flops_of_rows, survey
from nas.jac.ntk import ntk, paired_gram
from nas.jac.refuse import guarded
from nas.nn import indices_of

OUTPUTS = ("full", "trace", "sum")
METHODS = ("layerwise", "contraction", "products")
NOT_TRANSFORMABLE = ("opaque", "half seen", "attention")
EXACT, SINGLE = 1e-10, 1e-5


def batches(shape, *sizes, dtype=torch.float64):
    return [torch.randn(size, *shape, dtype=dtype) for size in sizes]


def assert_right(model, *inputs, parameters=None, methods=("layerwise",)):
    """The kernel of one batch or two, by these methods, is the reference's."""
    expected = reference.kernel(model, parameters or model.parameters(), *inputs)
    for method in methods:
        with example(method):
            assert reference.error(ntk(model, *inputs, method=method), expected) < EXACT


@pytest.mark.parametrize("name", reference.MODELS)
def test_every_kernel_equals_the_reference(name, monkeypatch):
    """Of one batch and of two, by every method, in full and reduced, in both types, both ways of a layer."""
    model, shape = reference.build(name)
    x1, x2 = batches(shape, 3, 2)
    parameters = list(model.parameters())
    pairs = [(other, reference.kernel(model, parameters, x1, other)) for other in (None, x2)]
    if name in NOT_TRANSFORMABLE:
        with pytest.raises(JacobianError, match="use method='layerwise'"):
            ntk(model, x1, method="products")
    methods = METHODS[:2] if name in NOT_TRANSFORMABLE else METHODS
    for method, output, (other, full) in product(methods, OUTPUTS, pairs):
        with example(method, output, other is None):
            found = ntk(model, x1, other, output, method)
            assert reference.error(found, reference.reduced(full, output)) < EXACT
            assert other is not None or output == "full" or method == "products" or torch.equal(found, found.T)
    each = torch.arange(2)
    for rows in (True, False):
        with monkeypatch.context() as patch, example(f"rows={rows}"):
            patch.setattr(survey_room, "flops_of_rows", lambda size, work, rows=rows: 0 if rows else math.inf)
            for output in OUTPUTS:
                assert reference.error(ntk(model, x1, x2, output), reference.reduced(pairs[1][1], output)) < EXACT
            assert reference.error(paired_gram(model, x1[:2], x2), pairs[1][1][each, each]) < EXACT
    kernel = ntk(model.float(), x1.float())
    assert kernel.dtype == torch.float32
    assert reference.error(kernel, pairs[0][1]) < SINGLE


OTHERWISE = {
    **dict.fromkeys(
        ["mlp", "depthwise", "conv3d", "residual", "norms", "called twice", "frozen", "dead end"], frozenset()
    ),
    "tied": {"encode.weight"},
    "two roles": {"linear.bias"},
    "turned": {"turned.weight", "turned.bias"},
    "bare": {"scale", "offset", "second.weight", "first.bias"},
    "tokens": {"position", "turned.weight", "turned.bias"},
    "as many tokens as samples": {"position", "turned.weight", "turned.bias"},
    "opaque": {"weight"},
    "half seen": {"weight"},
    "transposed": {"0.weight", "0.bias"},
}


def test_the_survey_finds_layers_and_other_parameters():
    for name, expected in OTHERWISE.items():
        with example(name):
            model, shape = reference.build(name)
            (x,) = batches(shape, 3)
            known = survey(guarded(model, x), x)
            names = {id(parameter): key for key, parameter in model.named_parameters()}
            assert {names[id(leaf)] for leaf in known.others} == expected
            used = {key for key, p in model.named_parameters() if p.requires_grad and "idle" not in key}
            in_layers = {names[id(leaf)] for layer in known.layers for leaf in layer.parameters.values()}
            assert in_layers == used - expected
            assert known.alone == (name in NOT_TRANSFORMABLE)


@given(size=st.builds(Sizes, *[st.integers(1, 9)] * 3), batch=st.integers(1, 5), seeds=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_counted_work_is_the_work_that_is_done(size, batch, seeds):
    h, g = torch.randn(batch, size.inputs, size.positions), torch.randn(batch, seeds, size.outputs, size.positions)
    work = Work(2 * batch, batch * batch, seeds, summed=False)
    kernel = torch.zeros(batch * seeds, batch * seeds)
    with FlopCounterMode(display=False) as count:
        j = torch.empty(2, batch, seeds, 1, size.inputs, size.outputs)
        for rows in j:
            write_rows(rows, h.unsqueeze(1), g.unsqueeze(2).unbind(1))
        kernel = kernel + (j[0].flatten(0, 1).flatten(1) @ j[1].flatten(0, 1).flatten(1).T)
    assert count.get_total_flops() == flops_of_rows(size, work)
    with FlopCounterMode(display=False) as count:
        out = torch.zeros(batch, seeds, batch, seeds)
        add_products(out, [Feature(g, h)], [Feature(g, h)])
    assert count.get_total_flops() == flops_of_factors(size, work)
    assert torch.allclose(out.view_as(kernel), kernel, rtol=1e-3, atol=1e-3)


def test_the_cheaper_way_of_a_layer_is_taken():
    work = Work(samples=32, pairs=32 * 32, seeds=10, summed=False)
    assert not Layer({}, [], Sizes(784, 512, 1)).as_rows(work)
    assert Layer({}, [], Sizes(288, 32, 28 * 28)).as_rows(work)
    for size in (Sizes(784, 512, 1), Sizes(288, 32, 784), Sizes(512 * 9, 512, 4), Sizes(64, 64, 16)):
        assert Layer({}, [], size).as_rows(work) == (flops_of_rows(size, work) < flops_of_factors(size, work))


def least_bytes(call):
    with pytest.raises(BudgetError) as refused:
        call(1)
    return refused.value.needed


@pytest.mark.parametrize("name", ["pooling", "called twice", "bare"])
def test_chunks_give_the_same_kernel(name):
    model, shape = reference.build(name)
    x1, x2 = batches(shape, 3, 2)
    for method, (output, other) in product(METHODS, [*product(OUTPUTS, [None]), ("full", x2)]):
        with example(method, output, other is None):
            kernel = partial(ntk, model, x1, other, output, method)
            whole, least = kernel(), least_bytes(lambda budget, kernel=kernel: kernel(chunk_bytes=budget))
            for budget in (least, 3 * least):
                assert reference.error(kernel(chunk_bytes=budget), whole) < EXACT


def test_smallest_budget_divides_samples_and_outputs(monkeypatch):
    plans = []
    whole = blocks.divide
    monkeypatch.setattr(blocks, "divide", lambda *args: plans.append(whole(*args)) or plans[-1])
    model, shape = reference.build("pooling")
    (x,) = batches(shape, 5)
    whole_kernel = ntk(model, x)
    ntk(model, x, chunk_bytes=least_bytes(lambda budget: ntk(model, x, chunk_bytes=budget)))
    assert plans[0] == (5, 5, [slice(0, 2)])
    assert plans[-1] == (1, 1, [slice(0, 1), slice(1, 2)])
    assert torch.equal(ntk(model, x, chunk_bytes=2.5e8), whole_kernel)  # as people write it


def test_batches_of_one_sample_are_right():
    for name, sizes in product(("mlp", "tokens", "turned", "residual"), ((1, 4), (4, 1), (1, 1))):
        model, shape = reference.build(name)
        with example(name, sizes):
            assert_right(model, *batches(shape, *sizes))


def test_kernel_is_symmetric_and_positive_semidefinite():
    for name in ("mlp", "residual", "bare"):
        model, shape = reference.build(name)
        (x,) = batches(shape, 6)
        kernel = ntk(model, x)
        matrix = kernel.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        assert matrix.data_ptr() == kernel.data_ptr(), name
        assert torch.equal(matrix, matrix.T), name
        by_products = ntk(model, x, method="products")
        assert torch.equal(by_products, by_products.permute(1, 0, 3, 2)), name
        values = torch.linalg.eigvalsh(matrix)
        assert values[-1] > 0, name
        assert values[0] > -1e-12 * values[-1], name


def test_mirror_copies_the_upper_triangle():
    for size in (1, 127, 128, 300):
        kernel = torch.randn(size, size)
        expected = kernel.triu() + kernel.triu(1).T
        blocks.mirror(kernel)
        assert torch.equal(kernel, expected), size


@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 2), st.integers(5, 7)),
    options=st.fixed_dictionaries(
        {
            "kernel_size": st.tuples(st.integers(1, 3), st.integers(1, 3)),
            "padding": st.tuples(st.integers(0, 2), st.integers(0, 1)),
            "stride": st.integers(1, 2),
            "dilation": st.integers(1, 2),
            "bias": st.booleans(),
        }
    ),
)
@settings(max_examples=30, deadline=None)
def test_any_convolution(sizes, options):
    batch, channels, groups, side = sizes
    first = nn.Conv2d(groups * channels, groups, groups=groups, **options)
    model = nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    x = torch.randn(batch, groups * channels, side, side, dtype=torch.float64)
    model(x)
    assert_right(model, x)


@given(case=chains([nn.Tanh()], linears=1))
@settings(max_examples=30, deadline=None)
def test_any_mlp(case):
    assert_right(case[0], torch.randn(case[1], dtype=torch.float64))


def test_paired_gram_is_the_kernel_of_equal_samples():
    each = torch.arange(3)
    for name in ("pooling", "called twice", "bare", "as many tokens as samples"):
        model, shape = reference.build(name)
        x1, x2 = batches(shape, 3, 3)
        two, one = ntk(model, x1, x2)[each, each], ntk(model, x1)[each, each]
        least = least_bytes(lambda budget, model=model, x1=x1, x2=x2: paired_gram(model, x1, x2, budget))
        for budget in (2**28, 2 * least, least):
            with example(name, budget):
                assert reference.error(paired_gram(model, x1, x2, budget), two) < EXACT
                assert reference.error(paired_gram(model, x1, x1, budget), one) < EXACT


@pytest.mark.parametrize("architecture", [(1,), ((0, 2),)])
def test_closed_branches_contribute_nothing_untouched(architecture):
    supernet = Gated().double().eval()
    (x,) = batches((3, 6, 6), 3)
    opened = set(indices_of(architecture[0]))
    kept = [*(p for i in opened for p in supernet.mix.branches[i].parameters()), supernet.head.bias]
    kept += [supernet.head.weights[i] for i in opened]

    def fn(x):
        return supernet(x, architecture)

    for i in set(range(3)) - opened:  # whatever is done with them shows
        for parameter in (*supernet.mix.branches[i].parameters(), supernet.head.weights[i]):
            parameter.data.fill_(float("nan"))
    assert_right(fn, x, parameters=kept, methods=METHODS)
    known = survey(guarded(fn, x), x)
    assert {leaf for layer in known.layers for leaf in layer.parameters.values()} == set(kept)
    assert not known.others


def test_a_vector_may_be_the_weight_of_one_score():
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    for shape in ((5,), (3, 5), (5, 5)):
        assert_right(lambda x: F.linear(x, weight), *batches(shape, 4), parameters=[weight])


def test_a_function_may_use_earlier_results():
    weight, shift = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    made = weight * 2 + shift.tanh()
    function = lambda x: torch.tanh(F.linear(x, made)) * shift.sum()  # noqa: E731
    assert_right(function, *batches((5,), 4), parameters=[weight, shift], methods=("layerwise", "contraction"))
    made.sum().backward()  # the tape is still there
    assert weight.grad is not None


class DeadTokens(nn.Module):
    """A Linear over ``(T, B, F)`` that has no gradient where its input is zero."""

    def __init__(self):
        super().__init__()
        self.turned, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
        nn.init.constant_(self.turned.bias, -1.0)

    def forward(self, x):
        return self.head(torch.relu(self.turned(x.transpose(0, 1)).transpose(0, 1)))


def test_no_layout_is_guessed_where_samples_are_dead():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    nn.init.constant_(model[0].bias, -1.0)
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, -9.0], [-9.0, 9.0]], dtype=torch.float64)
    tokens, hidden = torch.cat([torch.zeros(2, 2, 3), 9 * torch.randn(2, 2, 3)]).double(), DeadTokens().double()
    assert reference.kernel(hidden, hidden.turned.parameters(), tokens).abs().max() > 0
    for network, rows in ((model, x), (model, x.view(2, 2, 2)), (hidden, tokens)):
        assert_right(network, rows)
        assert_right(network, rows.flip(0))


def test_autocast_is_for_the_network_alone():
    for name in ("stride", "groups"):  # a layer of factors, one of rows
        model, shape = reference.build(name, torch.float32)
        (x,) = batches(shape, 3, dtype=torch.float32)
        exact = ntk(model, x)
        with torch.autocast("cpu", torch.bfloat16):
            kernel, expected = ntk(model, x), reference.kernel(model, model.parameters(), x)
        assert kernel.dtype == torch.float32, name
        assert reference.error(kernel, expected) < 1e-2, name  # eight bits, rounded in another order
        assert reference.error(kernel, exact) > SINGLE, name


def test_a_linear_layers_jacobian_is_never_made():
    model = nn.Sequential(nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 4)).double()
    (x,) = batches((60,), 6)
    with Counted() as seen:
        ntk(model, x)
    assert seen.largest_bytes <= 8 * 60 * 50  # one weight; six samples with four outputs each would take 24 of them
    with Counted() as seen:
        ntk(model, x, method="contraction")
    assert seen.largest_bytes >= 8 * 24 * 60 * 50


def test_no_tensor_is_larger_than_the_budget():
    model, shape = reference.build("pooling")
    (x,) = batches(shape, 12)
    least = least_bytes(lambda budget: ntk(model, x, chunk_bytes=budget))
    outputs = ntk(model, x[:1]).shape[-1]
    for budget in (least, 4 * least):
        with Counted() as seen:
            ntk(model, x, output="trace", chunk_bytes=budget)
        assert seen.largest_bytes <= max(budget, 12 * 12 * 8, outputs**2 * 8)
