"""Every mode gives the Jacobian of autograd, whatever the network, the batch, the budget and the circumstances."""

import subprocess
import sys
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import calls, example
from support.jac_references import (
    DISGUISED,
    MODELS,
    Counted,
    build,
    chains,
    error,
    functional_jacobian,
    inputs,
    known_jacobian,
    taped_jacobian,
)
from support.jac_references import jacobian as reference
from support.plan_changes import hooked
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from nas.jac import jacobian
from nas.jac.errors import NoRuleError

MODES = ("auto", "layerwise", "reverse", "forward")
NO_SECOND_DERIVATIVE = ("encoder",)  # torch has none for its attention kernel on processors


def modes(name, taped=False):
    """The modes that a network of the table can be differentiated in."""
    case = MODELS[name]
    layered = any(isinstance(part, nn.LayerNorm) for part in case.network.modules())  # refused, see test_jac_errors
    forward = case.forward and not (taped and layered)
    return [mode for mode in MODES if (case.layerwise or mode != "layerwise") and (forward or mode != "forward")]


# Against the references


@pytest.mark.parametrize("name", MODELS)
def test_every_mode_equals_a_loop_of_autograd(name):
    model, single, wanted = build(name), build(name, torch.float32), known_jacobian(name)
    for mode in modes(name):
        with example(mode):
            found = jacobian(model, inputs(name).requires_grad_(), mode=mode)
            assert error(found, wanted) < 1e-10
            assert not found.requires_grad
            found = jacobian(single, inputs(name, dtype=torch.float32), mode=mode)
            assert found.dtype == torch.float32
            assert error(found, wanted) < 1e-5
    x = inputs(name)
    if not MODELS[name].layerwise:
        with pytest.raises(NoRuleError, match="mode='reverse'"):
            jacobian(model, x, mode="layerwise")
    assert error(torch.cat([jacobian(model, x[i : i + 1]) for i in range(len(x))]), wanted) < 1e-12
    for samples in (1, 3):  # a budget of so many samples' largest value, or a little more
        assert error(jacobian(model, x, chunk_bytes=samples * 8 * 200), wanted) < 1e-12


@pytest.mark.parametrize("name", [name for name in MODELS if name not in NO_SECOND_DERIVATIVE])
def test_with_create_graph_gradients_are_double_backwards(name):
    model, x = build(name), inputs(name).requires_grad_()
    leaves = [x, *(model if isinstance(model, nn.Module) else model.__self__).parameters()]
    wanted = taped_jacobian(model, x)
    weights = torch.randn_like(wanted)
    theirs = gradients(wanted, weights, leaves)
    for mode in modes(name, taped=True):
        for chunk_bytes in (2**28, 8 * 200) if mode == "layerwise" else (2**28,):
            with example(mode, chunk_bytes):
                ours = jacobian(model, x, mode=mode, create_graph=True, chunk_bytes=chunk_bytes)
                assert ours.requires_grad or not wanted.requires_grad
                for mine, his in zip(gradients(ours, weights, leaves), theirs, strict=True):
                    assert error(mine, his) < 1e-9


def gradients(jacobian, weights, leaves):
    if not jacobian.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = (jacobian * weights).sum() + jacobian.square().sum()
    return torch.autograd.grad(found, leaves, retain_graph=True, materialize_grads=True, allow_unused=True)


def test_derivatives_by_closed_branches_are_exactly_zero():
    for mode in MODES:
        j = jacobian(build("gated-dense"), inputs("gated-dense"), mode=mode).unflatten(1, (6, 4))
        assert (j[:, 2:4] == 0).all(), mode  # the middle one of three branches, two channels each
        assert (j[:, :2] != 0).any(), mode
        assert (j[:, 4:] != 0).any(), mode


ACTIVATIONS = [nn.ReLU(), nn.Tanh(), nn.GELU(), nn.Softplus(), nn.LeakyReLU(0.2), nn.SiLU(), nn.Sigmoid()]


@st.composite
def cnns(draw):
    """One or two convolutions, activations and a pooling, and the shape of a batch."""
    groups, layers = draw(st.integers(1, 2)), []
    channels = [groups * draw(st.integers(1, 2)) for _ in range(draw(st.integers(2, 3)))]
    size = torch.tensor([draw(st.integers(3, 6)), draw(st.integers(3, 6))])
    shape = [draw(st.integers(1, 3)), channels[0], *size.tolist()]
    for into, out in pairwise(channels):
        kernel, stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
        reach = dilation * (kernel - 1) + 1
        padding = draw(st.sampled_from([p for p in range(3) if min(size) + 2 * p >= reach]))
        mode = draw(st.sampled_from(["zeros", "circular", "replicate"])) if padding <= min(size) else "zeros"
        layers += [nn.Conv2d(into, out, kernel, stride, padding, dilation, groups, padding_mode=mode)]
        layers += [draw(st.sampled_from(ACTIVATIONS))]
        size = (size + 2 * padding - reach) // stride + 1
    layers += [draw(st.sampled_from([nn.Identity(), nn.MaxPool2d(2, 1, 1), nn.AvgPool2d(2, 1, 1)])), nn.Flatten()]
    return nn.Sequential(*layers), shape


@settings(max_examples=30, deadline=None)
@given(case=st.one_of(chains([*ACTIVATIONS, nn.Dropout()], linears=1), cnns()))
def test_random_networks_agree_with_torch_func(case):
    model, x = case[0].double().eval(), torch.randn(case[1], dtype=torch.float64)
    wanted = functional_jacobian(model, x)
    for options in ({"mode": "layerwise"}, {}, {"chunk_bytes": 8 * 800}):
        assert error(jacobian(model, x, **options), wanted) < 1e-10


# Batches and budgets


def test_one_direction_at_a_time_changes_nothing():
    for (name, widest), mode in product({"mlp": 7, "bottleneck": 12, "cnn-1d": 16, "two-branches": 15}.items(), MODES):
        with example(name, mode):
            found = jacobian(build(name), inputs(name), mode=mode, chunk_bytes=8 * widest)
            assert error(found, known_jacobian(name)) < 1e-12


def test_batches_and_functions_of_the_batch_size():
    scale = torch.linspace(1, 2, 5, dtype=torch.float64)[:, None]
    written_out = lambda x: torch.tanh((x * scale).view(5, 2, 2)).reshape(5, 4) + scale  # noqa: E731
    cases = [(build("cnn-1d"), inputs("cnn-1d", batch)) for batch in (1, 2, 17)] + [(written_out, inputs("linear"))]
    for (function, x), mode in product(cases, MODES):
        assert error(jacobian(function, x, mode=mode), reference(function, x)) < 1e-10, (mode, x.shape)


def test_the_tape_reaches_what_x_was_made_from():
    model, z = build("mlp"), inputs("mlp").requires_grad_()
    x = torch.sin(z)
    wanted = torch.autograd.grad(taped_jacobian(model, x).square().sum(), z, retain_graph=True)[0]
    for mode in MODES:
        j = jacobian(model, x, mode=mode, create_graph=True)
        assert error(torch.autograd.grad(j.square().sum(), z, retain_graph=True)[0], wanted) < 1e-10, mode


# What it costs, in multiply-adds


NARROWING = nn.Sequential(nn.Linear(500, 100), nn.ReLU(), nn.Linear(100, 10), nn.Softmax(1)).double()
WIDENING = nn.Sequential(nn.Linear(2, 100), nn.Tanh(), nn.Linear(100, 300)).double()


def test_auto_goes_by_the_narrow_end():
    cases = product([(NARROWING, 10, 51_000), (WIDENING, 2, 30_200)], [True, False], [2**28, 100_000])
    for (model, directions, work), rules, chunk_bytes in cases:
        x = torch.randn(4, model[0].in_features, dtype=torch.float64)
        with Counted() as count:
            jacobian(model if rules else lambda x, m=model: m(x).cumsum(1), x, chunk_bytes=chunk_bytes)
        values = (directions + 3) * len(x) * work  # forward mode carries values along with each direction
        apart = 0 if rules else 8  # where no rule shows that samples are kept apart, a few more directions do
        most = (directions + apart) * len(x) * work + values
        assert count.multiply_adds <= most, (directions, rules, chunk_bytes)


def test_a_bottleneck_takes_its_width_in_directions():
    model = nn.Sequential(nn.Linear(200, 2), nn.Tanh(), nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 300)).double()
    work = 200 * 2 + 2 * 50 + 50 * 300
    with Counted() as count:
        jacobian(model, torch.randn(4, 200, dtype=torch.float64))
    assert count.multiply_adds <= 4 * (3 * work + 2 * 200 * 300)  # two directions, a forward pass, one product


def test_layerwise_runs_the_network_once():
    for name in MODELS:
        if MODELS[name].layerwise:
            model, calls = build(name), []
            jacobian(lambda x, model=model, calls=calls: calls.append(len(x)) or model(x), inputs(name))
            assert calls == [5], name


# What the recording must not overlook


def linear():
    return nn.Linear(4, 4).double()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_disguised_modules_run_as_they_are():
    x = inputs("linear")
    for name, make in DISGUISED.items():
        for model in (make(), nn.Sequential(linear(), make(), nn.Tanh())):
            with example(name):
                assert error(jacobian(model, x, mode="layerwise"), reference(model, x)) < 1e-10
    model = nn.Sequential(linear(), nn.Tanh())
    with hooked(register_module_forward_hook, lambda m, args, out: out * 2):
        assert error(jacobian(model, x), reference(model, x)) < 1e-10


HIDDEN = """x + torch.vmap(torch.sin)(x); torch.vmap(torch.sin)(x); x + torch.ops.aten.sin(x); x * x.detach()
    x + torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False)
    x - torch.vmap(torch.func.grad(lambda z: (z**3).sum()))(x)"""


@pytest.mark.filterwarnings("ignore")
def test_what_goes_around_torch_functions_is_no_constant():
    x = inputs("linear")
    scripted = torch.jit.script(linear()), torch.jit.trace(linear(), x)
    functions = [*calls(HIDDEN).values(), *scripted, *(lambda x, part=part: x + part(x) for part in scripted)]
    for number, function in enumerate(functions):
        with example(number):
            assert error(jacobian(function, x), reference(function, x)) < 1e-10


class Cubed(torch.autograd.Function):
    """A function with a backward pass and no forward derivative; more outputs than inputs."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.cat([x.flip(1) ** 3] * 3, 1)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient.unflatten(1, (3, -1)).sum(1).flip(1)


def test_auto_does_without_forward_derivatives():
    x = inputs("linear")
    assert error(jacobian(Cubed.apply, x), reference(Cubed.apply, x)) < 1e-10


FIRST_CALL = """
import sys, torch
from torch import nn
from nas.jac import jacobian
layers = nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.GELU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
jacobian(nn.Sequential(*layers), torch.randn(1, 1, 6, 6), mode="layerwise")
print("sympy" in sys.modules)
"""


def test_a_first_call_waits_for_no_import():
    """``autograd.grad`` with ``grad_outputs`` imports sympy, which takes a third of a second."""
    assert subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True).stdout == "False\n"
