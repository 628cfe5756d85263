"""What ``jacobian`` alone refuses, and what it answers in its place; nothing that is not finite is handed on."""

import contextlib

import pytest
import torch
from support.examples import calls, example
from support.jac_references import build, error, inputs, refused
from support.jac_references import jacobian as reference
from torch import nn

from nas.jac import JacobianError, jacobian
from nas.jac.errors import NoRuleError

MODES = ("auto", "layerwise", "reverse", "forward")
DOUBLE = {"dtype": torch.float64}


def x():
    return inputs("linear")


def linear():
    return nn.Linear(4, 3, **DOUBLE)


def assert_refused(match, model, at, modes=MODES, **options):
    for mode in modes:
        with example(match, mode), refused(match):
            jacobian(model, at, mode=mode, **options)


def test_arguments_that_do_not_exist_are_refused():
    assert_refused(r"mode=backward.*auto, forward, reverse, layerwise", linear(), x(), ["backward"])
    for mode in ("reverse", "forward"):
        assert_refused(f"factored=True.*mode='{mode}'.*layerwise", linear(), x(), [mode], factored=True)
    assert_refused("cumsum", build("cumsum"), inputs("cumsum"), ["auto", "layerwise"], factored=True)
    square = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    assert_refused(r"x\.unsqueeze\(0\)", square, x()[0], ["auto"])  # a sample without a batch


def test_a_constant_or_empty_output_has_zeros_or_none():
    weight = nn.Parameter(torch.randn(6, **DOUBLE))
    for model in (lambda x: torch.ones(len(x), 3, **DOUBLE), lambda x: weight.sin().expand(len(x), 6)):
        for mode in ("auto", "reverse", "forward"):
            found = jacobian(model, x(), mode=mode)
            assert (found.shape[0], found.shape[2:]) == (5, (4,)), mode
            assert (found == 0).all(), mode
    for model in (lambda x: x[:, :0], nn.Linear(4, 0, **DOUBLE), lambda x: x.sort(1)[0][:, 4:]):
        for mode in MODES:
            with contextlib.suppress(JacobianError):
                assert jacobian(model, x(), mode=mode).shape == (5, 0, 4), mode


def test_dropout_counts_inside_modules_but_not_at_zero():
    attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True, **DOUBLE)
    recurrent = nn.LSTM(4, 3, num_layers=2, dropout=0.5, batch_first=True, **DOUBLE)
    tokens = torch.randn(5, 3, 4, **DOUBLE)
    for part, arguments in ((attention, 3), (recurrent, 1)):
        function = lambda x, part=part, arguments=arguments: part(*[x] * arguments)[0]  # noqa: E731
        assert_refused(r"model\.eval\(\)", function, tokens, ["auto", "reverse"])
        part.eval()
        assert jacobian(function, tokens).shape[0] == jacobian(function, tokens, mode="reverse").shape[0] == 5
    model = nn.Sequential(linear(), nn.Dropout(0.0)).train()
    for mode in MODES:
        assert error(jacobian(model, x(), mode=mode), reference(model, x())) < 1e-10, mode


def test_layerwise_names_the_operation_and_its_module():
    nested = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Tanh(), nn.Unflatten(1, (2, 3)), nn.GRU(3, 2))).double()
    for match, model, at in (
        (r"1\.2=gru.*no layerwise rule.*mode='reverse'", nested, x()),
        (r"encoder.*gru", build("recurrent"), inputs("recurrent")),
        (r"\bT\b|transpos", lambda x: x.T, x()),
    ):
        with pytest.raises(NoRuleError):
            jacobian(model, at, mode="layerwise")
        assert_refused(match, model, at, ["layerwise"])


def test_an_infinite_slope_is_refused_with_its_place():
    steep = "torch.log(x * 0); 1 / (x - x); (x * 0) ** 0.5; torch.sqrt(x * 0).exp(); x * float('inf'); x / 0"
    for function in calls(steep).values():
        assert_refused(r"jacobian=.*not finite, the first at \(\d, \d, \d\)", function, x())


def test_a_large_jacobian_is_searched_too():
    """Above a size, only the factors are read before their product is: they must not hide anything."""
    big = torch.randn(4, 300, **DOUBLE)
    for where in ("0.weight", "2.weight"):
        model = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 100)).double().requires_grad_(False)
        assert torch.isfinite(jacobian(model, big)).all()
        model.get_parameter(where)[3, 4] = float("inf")
        with refused("finite"):
            jacobian(model, big)
        model.get_parameter(where)[:] = 1e300
        model[0].weight.mul_(1e200)
        with refused("finite"):
            jacobian(model, big * 0)


def test_forward_mode_refuses_a_wrong_tape():
    """Of LayerNorm and its like torch would give a wrong second derivative."""
    norms = """F.layer_norm(x.sin(), (4,)); torch.layer_norm(x.sin(), (4,)); norm(x.sin())
        torch.native_layer_norm(x.sin(), (4,), None, None, 1e-5)[0]; F.instance_norm(x.unflatten(1, (2, 2)).sin())
        instances(x.unflatten(1, (2, 2)))"""
    for model in calls(norms, norm=nn.LayerNorm(4).double(), instances=nn.InstanceNorm1d(2)).values():
        match = r"create_graph=True.*mode='reverse'"
        assert_refused(match, model, x().requires_grad_(), ["forward"], create_graph=True)
        assert error(jacobian(model, x(), mode="forward"), reference(model, x())) < 1e-10


class Reversed(torch.autograd.Function):
    """A gradient reversal, not the derivative of what it computes; it reads numbers, so that vmap cannot do it."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -g if g.isfinite().all() else g


def without_tape(x):
    with torch.no_grad():
        y = torch.sin(x)
    return y + 2 * x


def test_a_declared_derivative_is_not_computed():
    for function, slope in ((lambda x: Reversed.apply(x) * 2, -2), (without_tape, 2)):
        assert_refused(r"autograd\.Function or torch\.no_grad", function, x(), ["layerwise"])
        wanted = slope * torch.eye(4, **DOUBLE).expand(5, 4, 4)
        assert torch.equal(jacobian(function, x()), wanted)
        assert torch.equal(jacobian(function, x(), mode="reverse"), wanted)
    assert_refused(r"mode=forward.*mode='reverse'", lambda x: Reversed.apply(x), x(), ["forward"])
