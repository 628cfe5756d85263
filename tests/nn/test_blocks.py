"""The zero-aware layers are the dense layer behind the zeros, without the zeros."""

from itertools import product

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from support import references
from support.examples import example
from torch import nn

from nas.errors import SpaceError
from nas.nn import BlockConv2d, BlockLinear, ZeroPadded

examples = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def slots(draw):
    """Widths of up to five slots, and which of them are open."""
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    active = draw(st.sets(st.integers(0, len(widths) - 1), min_size=1))
    return tuple(widths), tuple(sorted(active))


def padded(widths, active, batch, *sides, seed=0):
    random = torch.Generator().manual_seed(seed)
    shape = lambda slot: (batch, widths[slot], *sides)  # noqa: E731
    values = tuple(torch.randn(shape(slot), dtype=torch.float64, generator=random).requires_grad_() for slot in active)
    return ZeroPadded(values, active, widths)


def assert_equals_dense(layer, z, slow):
    """Outputs and gradients of ``layer(z)``, of its dense twin, and of the slow version, in float64."""
    widths, active = z.widths, z.active
    twins = tuple(value.detach().clone().requires_grad_() for value in z.values)
    dense, whole = layer.to_dense(), references.concatenation(twins, active, widths)
    assert torch.equal(z.dense(), whole)

    y, expected = layer(z), dense(whole)
    close = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(y, expected, **close)
    torch.testing.assert_close(y, slow(whole, dense.weight, dense.bias), **close)

    cotangent = torch.randn(y.shape, dtype=y.dtype)
    y.backward(cotangent)
    expected.backward(cotangent)
    for slot, gradient in enumerate(dense.weight.grad.split(widths, dim=1)):
        if slot in active:
            torch.testing.assert_close(layer.weights[slot].grad, gradient, **close)
        else:
            assert not gradient.count_nonzero()
            assert layer.weights[slot].grad is None
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, dense.bias.grad, **close)
    for value, twin in zip(z.values, twins, strict=True):
        torch.testing.assert_close(value.grad, twin.grad, **close)


@examples
@given(slots(), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_block_linear_equals_dense(slots, batch, out, bias):
    widths, active = slots
    layer = BlockLinear(len(widths), widths, out, bias).double()
    assert_equals_dense(layer, padded(widths, active, batch), references.linear)


@examples
@given(
    slots(),
    st.tuples(st.integers(3, 7), st.integers(3, 7)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.booleans(),
)
def test_block_conv_equals_dense(slots, sides, kernel, stride, padding, dilation, bias):
    widths, active = slots
    padding = max(padding, (dilation * (kernel - 1) + 2 - min(sides)) // 2)  # the kernel fits the picture
    layer = BlockConv2d(len(widths), widths, 3, kernel, stride, padding, dilation, bias).double()
    slow = lambda x, weight, bias: references.conv2d(x, weight, bias, stride, padding, dilation)  # noqa: E731
    assert_equals_dense(layer, padded(widths, active, 2, *sides), slow)


def test_to_dense_undoes_from_dense():
    for dtype, bias in product((torch.float32, torch.float64, torch.bfloat16), (True, False)):
        options = {"bias": bias, "dtype": dtype}
        for kind, dense in (
            (BlockLinear, nn.Linear(7, 5, **options)),
            (BlockConv2d, nn.Conv2d(7, 5, 3, stride=2, padding=1, dilation=2, **options)),
        ):
            with example(kind.__name__, options):
                layer = kind.from_dense(dense, [3, 1, 3])
                back = layer.to_dense()
                assert repr(back) == repr(dense)
                assert [weight.shape[1] for weight in layer.weights] == [3, 1, 3]
                assert {p.dtype for p in layer.parameters()} == {dtype}
                assert back.state_dict().keys() == dense.state_dict().keys()
                for name, tensor in dense.state_dict().items():
                    assert back.state_dict()[name].dtype == dtype
                    assert torch.equal(back.state_dict()[name], tensor)
                with torch.no_grad():
                    back.weight.zero_()  # a copy: the layer keeps its own
                assert all(weight.count_nonzero() for weight in layer.weights)


def test_fresh_slots_start_like_stand_alone_layers():
    torch.manual_seed(1)
    layer = BlockLinear(3, [400, 100, 25], 500)
    for weight, fan_in in zip(layer.weights, (400, 100, 25), strict=True):
        alone = nn.Linear(fan_in, 500).weight
        assert weight.abs().max().item() <= fan_in**-0.5
        assert weight.std().item() == pytest.approx(alone.std().item(), rel=0.03)


def test_layers_that_do_not_fit_are_refused():
    for widths in ([3, 3], [3, 4, 1], []):
        for layer, dense in ((BlockLinear, nn.Linear(7, 2)), (BlockConv2d, nn.Conv2d(7, 2, 1))):
            with pytest.raises(SpaceError, match=r"widths=.*must sum to the 7 inputs"):
                layer.from_dense(dense, widths)
    for options in {"groups": 2}, {"padding_mode": "reflect", "padding": 1}, {"padding": "same"}, {"stride": (1, 2)}:
        with pytest.raises(SpaceError, match="square, zero-padded by a number and not grouped"):
            BlockConv2d.from_dense(nn.Conv2d(4, 4, 3, **options), [2, 2])
    for blocks, widths in ((0, 3), (2, 0), (2, [3]), (2, [3, -1]), (2, [3, 3, 3])):
        with pytest.raises(SpaceError, match="one positive size"):
            BlockLinear(blocks, widths, 2)
        with pytest.raises(SpaceError, match="one positive size"):
            BlockConv2d(blocks, widths, 2, 1)


STEPS = {
    "relu": torch.relu,
    "max_pool": lambda t: torch.nn.functional.max_pool2d(t, 2),
    "avg_pool": lambda t: torch.nn.functional.avg_pool2d(t, 3, 2, 1),
    "global_pool": lambda t: t.mean(dim=(2, 3)),
    "flatten": lambda t: torch.flatten(t, 1),
    "flatten_then_relu": lambda t: torch.relu(torch.flatten(t, 1)),
}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(step=st.sampled_from(sorted(STEPS)), slots=slots())
def test_map_equals_the_step_on_the_dense_tensor(step, slots):
    widths, active = slots
    z = padded(widths, active, 2, 4, 6)
    mapped = z.map(STEPS[step])
    assert mapped.active == active
    assert torch.equal(mapped.dense(), STEPS[step](z.dense()))
    factor = 24 if "flatten" in step else 1
    assert mapped.widths == tuple(factor * width for width in widths)


def test_maps_follow_each_other():
    z = padded((2, 1, 3), (0, 2), 2, 4, 4)
    mapped = z.map(torch.relu).map(STEPS["max_pool"]).map(STEPS["flatten"])
    assert mapped.widths == (8, 4, 12)
    assert torch.equal(mapped.dense(), STEPS["flatten"](STEPS["max_pool"](torch.relu(z.dense()))))
