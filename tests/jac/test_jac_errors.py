"""What a caller can get wrong is one line that names it and the remedy; nothing wrong or not finite is handed on."""

import contextlib
import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from support.examples import example
from support.jac_references import build, error, inputs, known_jacobian
from support.jac_references import jacobian as reference
from torch import nn

from nas.jac import JacobianError, jacobian
from nas.jac.errors import BudgetError, NoRuleError

MODES = ("auto", "layerwise", "reverse", "forward")
DOUBLE = {"dtype": torch.float64}


def x():
    return inputs("linear")


def linear():
    return nn.Linear(4, 3, **DOUBLE)


def assert_refused(match, model, at, modes=MODES, **kwargs):
    """In every mode, with one line."""
    for mode in modes:
        with example(match, mode):
            with pytest.raises(JacobianError, match=match or None) as caught:
                jacobian(model, at, mode=mode, **kwargs)
            assert "\n" not in str(caught.value)


# Inputs and arguments


def test_what_is_no_batch_of_numbers_is_refused():
    for bad, says in (
        ([[1.0, 2.0]], "list.*must be a tensor"),
        (torch.ones(5, 4, dtype=torch.int64), "int64.*no derivative by integers"),
        (torch.ones(5, 4, dtype=torch.complex64), "complex64.*real floating-point"),
        (torch.ones(0, 4), r"\(0, 4\).*at least one sample"),
        (torch.ones(5, 0), r"\(5, 0\).*at least one entry"),
        (torch.tensor(1.0), r"\(\).*batch"),
    ):
        assert_refused(f"x=.*{says}", nn.Linear(4, 3), bad)
    for number in (float("nan"), float("inf"), -float("inf")):
        bad = x()
        bad[3, 2] = bad[4, 0] = number
        assert_refused(r"x=.*2 entries.*first at \(3, 2\)", linear(), bad)
    big = torch.full((2, 4), 3e38)  # whose sum overflows
    assert torch.isfinite(jacobian(lambda x: x * 0.5, big)).all()


def test_arguments_that_do_not_exist_are_refused():
    assert_refused(r"mode=backward.*auto, forward, reverse, layerwise", linear(), x(), ["backward"])
    for mode in ("reverse", "forward"):
        assert_refused(f"factored=True.*mode='{mode}'.*layerwise", linear(), x(), [mode], factored=True)
    assert_refused("cumsum", build("cumsum"), inputs("cumsum"), ["auto", "layerwise"], factored=True)
    for chunk_bytes in (0, -1):
        assert_refused("chunk_bytes=", linear(), x(), chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("mode", MODES)
def test_a_refused_budget_says_what_is_enough(mode):
    for name in ("mlp", "bottleneck", "cnn-1d", "fft")[: 3 if mode == "layerwise" else 4]:
        model, batch, wanted = build(name), inputs(name), known_jacobian(name)
        with pytest.raises(BudgetError, match="chunk_bytes=1: is too small") as caught:
            jacobian(model, batch, mode=mode, chunk_bytes=1)
        needed = caught.value.needed
        assert f"use chunk_bytes={needed} or more" in str(caught.value)
        for enough in (needed, 1e4):  # people write 1e8
            assert error(jacobian(model, batch, mode=mode, chunk_bytes=enough), wanted) < 1e-10, name
        with pytest.raises(BudgetError):
            jacobian(model, batch, mode=mode, chunk_bytes=needed - 1)


# Outputs


def test_an_output_that_is_no_batch_is_refused():
    for model, says in (
        (lambda x: x.mean(), "batch"),
        (lambda x: x.mean(0), "batch|across samples|over the batch"),
        (lambda x: x[0], "batch|indexing"),
        (lambda x: x[1:], "batch|indexing"),
        (lambda x: x.view(-1, 2), "batch|across samples"),
        (lambda x: torch.cat([x, x]), "batch"),
        (lambda x: (x, x), "tuple|type"),
        (lambda x: None, "NoneType|type"),
        (lambda x: x.argmax(1), "int64|argmax"),
        (lambda x: torch.fft.fft(x), "complex|fft"),
        (lambda x: torch.ones(3), r"\(3,\)|does not depend"),
    ):
        assert_refused(says, model, x())


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


# Samples that couple, noise


class Net(nn.Module):
    """A network with a part that may be in training mode, behind what may have no rule."""

    def __init__(self, part, rule):
        super().__init__()
        self.first, self.part, self.rule = nn.Linear(4, 4, **DOUBLE), part, rule

    def forward(self, x):
        x = self.first(x)
        return self.part(x if self.rule else x.cumsum(1))


def counts_no_more():
    norm = nn.BatchNorm1d(4, **DOUBLE)
    norm.track_running_stats = False
    return norm


TRAINING = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4, **DOUBLE), "couples"),
    "BatchNorm1d-without-statistics": (lambda: nn.BatchNorm1d(4, track_running_stats=False, **DOUBLE), "couples"),
    "BatchNorm1d-that-counts-no-more": (counts_no_more, "couples"),
    "Dropout": (lambda: nn.Dropout(0.3), "draws"),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.3), "draws"),
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_mode_is_refused_by_module(name):
    make, says = TRAINING[name]
    named = rf"part \({name.split('-')[0]}\).*{says}.*model\.eval\(\)"
    for mode, rule in product(MODES, (True, False)):
        model = Net(make(), rule).train()
        before, unknown = copy.deepcopy(model.state_dict()), mode == "layerwise" and not rule
        assert_refused("" if unknown else named, model, x(), [mode])
        assert_refused("" if unknown else r"model\.eval\(\)", lambda x, model=model: model(x), x(), [mode])
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), (mode, rule)
        assert model.part.training


FUNCTIONAL = {
    "F.dropout": lambda x: F.dropout(x),
    "F.dropout, by keyword": lambda x: F.dropout(x, p=0.2, training=True),
    "F.dropout2d": lambda x: F.dropout2d(x[:, :, None, None]).flatten(1),
    "F.alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, True),
    "F.feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.5, True),
    "torch.dropout": lambda x: torch.dropout(x, 0.5, True),
    "torch.dropout, by keyword": lambda x: torch.dropout(x, p=0.5, train=True),
    "torch.feature_dropout": lambda x: torch.feature_dropout(x, 0.5, True),
    "F.batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "F.batch_norm, by position": lambda x: F.batch_norm(x, None, None, None, None, True),
    "torch.batch_norm": lambda x: torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False),
    "F.rrelu": lambda x: F.rrelu(x, training=True),
}


def test_noise_and_batch_statistics_in_functions_are_refused():
    for name, function in FUNCTIONAL.items():
        with example(name):
            assert_refused(r"model\.eval\(\)|no layerwise rule", function, x())
            assert_refused(r"model\.eval\(\)|no layerwise rule", lambda x, f=function: f(x.cumsum(1)), x())


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


# What layerwise cannot do


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


# Numbers that are not finite on the way


def network_with(number, where, entry, activation):
    model = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)).double()
    with torch.no_grad():
        model.get_parameter(where)[entry] = number
    return model


def test_a_weight_of_nan_is_an_error():
    """Also one that a ReLU hides: where the value is NaN no slope means anything, finite or not."""
    nan = float("nan")
    for where in ("0.weight", "2.weight"):
        assert_refused(r"jacobian=nan.*finite", network_with(nan, where, (1, 2), nn.Tanh()), x())
    for where in ("0.weight", "0.bias", "2.weight"):
        assert_refused("", network_with(nan, where, ..., nn.ReLU()), x())


def test_an_infinite_slope_is_refused_with_its_place():
    for function in (
        lambda x: torch.log(x * 0),
        lambda x: 1 / (x - x),
        lambda x: (x * 0) ** 0.5,
        lambda x: torch.sqrt(x * 0).exp(),
        lambda x: x * float("inf"),
    ):
        assert_refused(r"jacobian=.*not finite, the first at \(\d, \d, \d\)", function, x())


def test_a_large_jacobian_is_searched_too():
    """Above a size, only the factors are read before their product is: they must not hide anything."""
    big = torch.randn(4, 300, **DOUBLE)
    for where in ("0.weight", "2.weight"):
        model = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 100)).double()
        assert torch.isfinite(jacobian(model, big)).all()
        with torch.no_grad():
            model.get_parameter(where)[3, 4] = float("inf")
        with pytest.raises(JacobianError, match="finite"):
            jacobian(model, big)
        with torch.no_grad():
            model.get_parameter(where)[:] = 1e300
            model[0].weight.mul_(1e200)
        with pytest.raises(JacobianError, match="finite"):
            jacobian(model, big * 0)


# What torch's differentiation cannot give


def test_forward_mode_refuses_a_wrong_tape():
    """Of LayerNorm and its like torch would give a wrong second derivative."""
    for model in (
        nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)).double(),
        lambda x: F.layer_norm(x.sin(), (4,)),
        lambda x: torch.layer_norm(x.sin(), (4,)),
        lambda x: torch.native_layer_norm(x.sin(), (4,), None, None, 1e-5)[0],
        nn.Sequential(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2)),
        lambda x: F.instance_norm(x.unflatten(1, (2, 2)).sin()),
    ):
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


def test_samples_that_are_mixed_are_refused():
    for function in (
        lambda x: x - x.mean(0),
        lambda x: x.softmax(0),
        lambda x: x.cumsum(0),
        lambda x: x.flip(0),
        lambda x: (x.mT @ torch.ones(5, 5, **DOUBLE)).mT,
    ):
        assert_refused("mixes the samples", function, x(), ["auto", "reverse", "forward"])
    square = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    assert_refused(r"x\.unsqueeze\(0\)", square, x()[0], ["auto"])  # a single sample without a batch
