"""Every mode gives the Jacobian of autograd, whatever the network, the batch, the budget and the circumstances."""

import copy
import subprocess
import sys
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import example
from support.jac_references import (
    DISGUISED,
    MODELS,
    MODULES,
    Counted,
    build,
    error,
    functional_jacobian,
    inputs,
    known_jacobian,
    module,
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


def test_torch_func_agrees_with_the_reference():
    for name in MODELS:
        if name != "recurrent":  # torch's GRU has no vmap
            with example(name):
                assert error(functional_jacobian(build(name), inputs(name)), known_jacobian(name)) < 1e-10


def test_derivatives_by_closed_branches_are_exactly_zero():
    for mode in MODES:
        j = jacobian(build("gated-dense"), inputs("gated-dense"), mode=mode).unflatten(1, (6, 4))
        assert (j[:, 2:4] == 0).all(), mode  # the middle one of three branches, two channels each
        assert (j[:, :2] != 0).any(), mode
        assert (j[:, 4:] != 0).any(), mode


ACTIVATIONS = [
    nn.ReLU(),
    nn.Tanh(),
    nn.GELU(),
    nn.Softplus(),
    nn.LeakyReLU(0.2),
    nn.SiLU(),
    nn.Sigmoid(),
    nn.Identity(),
    nn.Dropout(),
]


@st.composite
def mlps(draw):
    """Linears and activations, and the shape of their input."""
    widths, layers = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5)), []
    for into, out in pairwise(widths):
        layers += [nn.Linear(into, out, bias=draw(st.booleans())), draw(st.sampled_from(ACTIVATIONS))]
    return nn.Sequential(*layers), (widths[0],)


@st.composite
def cnns(draw):
    """One or two convolutions, activations and a pooling, and the shape of their input."""
    groups, layers = draw(st.integers(1, 2)), []
    channels = [groups * draw(st.integers(1, 2)) for _ in range(draw(st.integers(2, 3)))]
    size = torch.tensor([draw(st.integers(3, 6)), draw(st.integers(3, 6))])
    shape = (channels[0], *size.tolist())
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
@given(network=st.one_of(mlps(), cnns()), seed=st.integers(0, 1000), batch=st.integers(1, 3))
def test_random_networks_agree_with_torch_func(network, seed, batch):
    model, shape = network[0].double().eval(), network[1]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    x = torch.randn(batch, *shape, dtype=torch.float64, generator=generator)
    wanted = functional_jacobian(model, x)
    for found in (jacobian(model, x, mode="layerwise"), jacobian(model, x), jacobian(model, x, chunk_bytes=8 * 800)):
        assert error(found, wanted) < 1e-10


# Batches and budgets


def test_one_direction_at_a_time_changes_nothing():
    for (name, widest), mode in product({"mlp": 7, "bottleneck": 12, "cnn-1d": 16, "two-branches": 15}.items(), MODES):
        with example(name, mode):
            found = jacobian(build(name), inputs(name), mode=mode, chunk_bytes=8 * widest)
            assert error(found, known_jacobian(name)) < 1e-12


def test_batches_and_functions_of_the_batch_size():
    scale = torch.linspace(1, 2, 5, dtype=torch.float64)[:, None]
    functions = {
        "constant for each sample": lambda x: torch.tanh(x * scale) + scale,
        "batch size written out": lambda x: torch.tanh(x.view(5, 2, 2)).reshape(5, 4),
    }
    for mode in MODES:
        for batch in (1, 2, 17):
            x = inputs("cnn-1d", batch)
            assert error(jacobian(build("cnn-1d"), x, mode=mode), reference(build("cnn-1d"), x)) < 1e-10, (mode, batch)
        for name, function in functions.items():
            x = inputs("linear")
            assert error(jacobian(function, x, mode=mode), reference(function, x)) < 1e-10, (mode, name)


# Circumstances


def test_inputs_need_not_be_contiguous():
    for name, mode in product(["mlp", "cnn-stride", "tokens", "pooling", "group-norm"], MODES):
        model, x = build(name), inputs(name)
        apart = torch.stack([x, x + 1], -1)[..., 0]
        turned = x.transpose(0, -1).contiguous().transpose(0, -1)
        with example(name, mode):
            for other in (apart, turned):
                assert not other.is_contiguous()
                assert error(jacobian(model, other, mode=mode), known_jacobian(name)) < 1e-12
            alike = x[:1].expand(5, *x.shape[1:])
            assert error(jacobian(model, alike, mode=mode), reference(model, alike)) < 1e-12


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_grad_mode_around_does_not_matter(around):
    for name, mode in product(["mlp", "pooling", "residual-in-place", "sine", "means", "tokens"], MODES):
        model, x, leaf = build(name), inputs(name), inputs(name).requires_grad_()
        with example(name, mode):
            with around():
                found = [jacobian(model, at, mode=mode) for at in (x, x * 1, leaf)]
                taped = mode != "forward" and jacobian(model, x, mode=mode, create_graph=True)
            for j in found:
                assert error(j, known_jacobian(name)) < 1e-12
                assert not j.requires_grad
            if name == "mlp" and mode != "forward":
                assert torch.autograd.grad(taped.sum(), model[0].weight)[0].abs().max() > 0


@pytest.mark.parametrize("mode", ["layerwise", "reverse", "forward"])
def test_the_tape_reaches_what_x_was_made_from(mode):
    model, z = build("mlp"), inputs("mlp").requires_grad_()
    weights = torch.linspace(-1, 1, 5 * 3 * 6, dtype=torch.float64).view(5, 3, 6)
    for x in (z, torch.sin(z)):
        j = jacobian(model, x, mode=mode, create_graph=True)
        ours = torch.autograd.grad((j * weights).sum(), z, retain_graph=True)
        wanted = torch.autograd.grad((taped_jacobian(model, x) * weights).sum(), z)
        assert error(ours[0], wanted[0]) < 1e-10


# Nothing is changed, nothing is shared


def test_network_and_input_are_left_unchanged():
    for name in MODULES:
        with example(name):
            assert_left_unchanged(name)


def assert_left_unchanged(name):
    model, x = module(name), inputs(name)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        parameter.grad = torch.ones_like(parameter)
    before, x_before = copy.deepcopy(model), x.clone()
    for taped in (False, True):
        for mode in modes(name, taped) if name not in NO_SECOND_DERIVATIVE else ():
            jacobian(model, x, mode=mode, create_graph=taped, chunk_bytes=8 * 600)
    assert torch.equal(x, x_before)
    assert not x.requires_grad
    assert x.grad is None
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    for (key, now), (_, then) in zip(model.named_parameters(), before.named_parameters(), strict=True):
        assert now.requires_grad == then.requires_grad, key
        assert torch.equal(now.grad, torch.ones_like(now)), key
    for key, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_an_operation_in_place_does_not_reach_x():
    x = inputs("linear")
    before = x.clone()
    functions = {"rules": lambda x: x.mul_(2).sin(), "no rule": lambda x: x.mul_(2).cumsum(1)}
    for (name, function), mode, create_graph in product(functions.items(), MODES, (False, True)):
        with example(name, mode, create_graph):
            if (name, mode) == ("no rule", "layerwise"):
                with pytest.raises(NoRuleError):
                    jacobian(function, x, mode=mode)
            else:
                ours = jacobian(function, x, mode=mode, create_graph=create_graph)
                assert error(ours, reference(function, before)) < 1e-12
            assert torch.equal(x, before)


class Weighted(nn.Module):
    """A function of ``x`` and a weight."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape, dtype=torch.float64))

    def forward(self, x):
        return self.function(x, self.weight)


LINEAR = {
    "linear": lambda: nn.Linear(4, 3).double(),
    "flatten-linear": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 3)).double(),
    "dropout-linear": lambda: nn.Sequential(nn.Dropout(), nn.Linear(4, 3)).double().eval(),
    "linear-shift": lambda: nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (1, 3))).double(),
    "shift-matmul": lambda: Weighted(lambda x, weight: (x + 1) @ weight, 4, 3),
    "factor": lambda: Weighted(lambda x, weight: weight * x, 4),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 1, 4), nn.Flatten()).double(),
    "identity": nn.Identity,
}


def test_the_result_may_be_written_into():
    """Neither a weight, nor x, nor another sample's Jacobian moves; where J is constant, sharing is tempting."""
    for name, chunk_bytes, batch, mode in product(LINEAR, (2**28, 8 * 8), (1, 5), MODES):
        with example(name, chunk_bytes, batch, mode):
            model, x = LINEAR[name](), inputs("linear", batch)
            before, x_before = copy.deepcopy(model.state_dict()), x.clone()
            j = jacobian(model, x, mode=mode, chunk_bytes=chunk_bytes)
            other = j[-1].clone()
            j[0] = 7.0
            j[0] -= 1.0
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
            assert torch.equal(x, x_before)
            assert batch == 1 or torch.equal(j[-1], other)


# What it costs, in multiply-adds


def narrowing():
    return nn.Sequential(nn.Linear(500, 100), nn.ReLU(), nn.Linear(100, 10), nn.Softmax(1)).double(), 500, 51_000


def widening():
    return nn.Sequential(nn.Linear(2, 100), nn.Tanh(), nn.Linear(100, 300)).double(), 2, 30_200


def with_cumsum(network):
    model, width, work = network()
    return (lambda x: model(x).cumsum(1)), width, work


def test_auto_goes_by_the_narrow_end():
    cases = product([(narrowing, 10), (widening, 2)], [True, False], [2**28, 100_000])
    for (network, directions), rules, chunk_bytes in cases:
        model, width, work = network() if rules else with_cumsum(network)
        x = torch.randn(4, width, dtype=torch.float64)
        with Counted() as count:
            jacobian(model, x, chunk_bytes=chunk_bytes)
        values = (directions + 3) * len(x) * work  # forward mode carries values along with each direction
        apart = 0 if rules else 8  # where no rule shows that samples are kept apart, a few more directions do
        most = (directions + apart) * len(x) * work + values
        assert count.multiply_adds <= most, (network.__name__, rules, chunk_bytes)


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
    for name, inside, mode in product(DISGUISED, (False, True), ("auto", "layerwise")):
        with example(name, inside, mode):
            model = DISGUISED[name]()
            model = nn.Sequential(linear(), model, nn.Tanh()) if inside else model
            assert error(jacobian(model, x, mode=mode), reference(model, x)) < 1e-10


def test_a_hook_for_all_modules_is_seen():
    x, model = inputs("linear"), nn.Sequential(linear(), nn.Tanh())
    with hooked(register_module_forward_hook, lambda m, args, out: out * 2):
        assert error(jacobian(model, x), reference(model, x)) < 1e-10


HIDDEN = {
    "vmap": lambda x: x + torch.vmap(torch.sin)(x),
    "vmap-alone": lambda x: torch.vmap(torch.sin)(x),
    "grad-of-energy": lambda x: x - torch.vmap(torch.func.grad(lambda z: (z**3).sum()))(x),
    "checkpoint": lambda x: x + torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False),
    "aten": lambda x: x + torch.ops.aten.sin(x),
    "detach": lambda x: x * x.detach(),
}


def test_what_goes_around_torch_functions_is_no_constant():
    x = inputs("linear")
    for name, function in HIDDEN.items():
        with example(name):
            assert error(jacobian(function, x), reference(function, x)) < 1e-10


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_module_is_no_constant():
    x = inputs("linear")
    for scripted in (torch.jit.script(linear()), torch.jit.trace(linear(), x)):
        for function in (scripted, lambda x, scripted=scripted: x + scripted(x)):
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
