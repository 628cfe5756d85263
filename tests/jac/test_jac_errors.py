"""What a caller can get wrong is one line that names it and the remedy; nothing wrong or not finite is handed on."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from support.jac_references import MODELS, build, error, inputs
from support.jac_references import jacobian as reference
from torch import nn

from nas.jac import JacobianError, jacobian
from nas.jac.errors import BudgetError, NoRuleError

MODES = ("auto", "layerwise", "reverse", "forward")
DOUBLE = {"dtype": torch.float64}
every_mode = pytest.mark.parametrize("mode", MODES)


def x():
    return inputs("linear")


def line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


# Inputs


@every_mode
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([[1.0, 2.0]], "list.*must be a tensor"),
        (None, "NoneType.*must be a tensor"),
        (torch.ones(5, 4, dtype=torch.int64), "int64.*no derivative by integers"),
        (torch.ones(5, 4, dtype=torch.bool), "bool"),
        (torch.ones(5, 4, dtype=torch.complex64), "complex64.*real floating-point"),
        (torch.ones(0, 4), r"\(0, 4\).*at least one sample"),
        (torch.ones(5, 0), r"\(5, 0\).*at least one entry"),
        (torch.tensor(1.0), r"\(\).*batch"),
    ],
)
def test_what_is_no_batch_of_numbers_is_refused(bad, says, mode):
    with pytest.raises(JacobianError, match=f"x=.*{says}") as caught:
        jacobian(nn.Linear(4, 3), bad, mode=mode)
    line(caught)


@every_mode
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_with_its_place(number, mode):
    bad = x()
    bad[3, 2] = number
    bad[4, 0] = number
    with pytest.raises(JacobianError, match=r"x=.*2 entries.*first at \(3, 2\)"):
        jacobian(nn.Linear(4, 3).double(), bad, mode=mode)


def test_large_numbers_whose_sum_overflows_are_not_refused():
    big = torch.full((2, 4), 3e38)
    assert torch.isfinite(jacobian(lambda x: x * 0.5, big)).all()


# Arguments


def test_an_unknown_mode_is_refused_with_the_choices():
    with pytest.raises(JacobianError, match=r"mode=backward.*auto, forward, reverse, layerwise"):
        jacobian(nn.Linear(4, 3).double(), x(), mode="backward")


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_factored_is_layerwise_only(mode):
    with pytest.raises(JacobianError, match=f"factored=True.*mode='{mode}'.*layerwise"):
        jacobian(nn.Linear(4, 3).double(), x(), mode=mode, factored=True)


def test_factored_of_what_has_no_rule_says_so():
    with pytest.raises(NoRuleError, match="cumsum"):
        jacobian(build("cumsum"), inputs("cumsum"), factored=True)


@every_mode
@pytest.mark.parametrize("name", ["mlp", "bottleneck", "cnn-1d", "fft"])
def test_a_budget_too_small_for_one_sample_says_what_is_needed_and_that_is_enough(name, mode):
    if mode == "layerwise" and not MODELS[name].layerwise:
        return
    model, batch = build(name), inputs(name)
    with pytest.raises(BudgetError, match="chunk_bytes=1: is too small") as caught:
        jacobian(model, batch, mode=mode, chunk_bytes=1)
    needed = caught.value.needed
    assert f"use chunk_bytes={needed} or more" in line(caught)
    assert error(jacobian(model, batch, mode=mode, chunk_bytes=needed), reference(model, batch)) < 1e-10
    with pytest.raises(BudgetError):
        jacobian(model, batch, mode=mode, chunk_bytes=needed - 1)


@every_mode
@pytest.mark.parametrize("chunk_bytes", [0, -1])
def test_a_budget_that_is_not_positive_is_refused(chunk_bytes, mode):
    with pytest.raises(JacobianError, match="chunk_bytes="):
        jacobian(build("mlp"), inputs("mlp"), mode=mode, chunk_bytes=chunk_bytes)


@every_mode
def test_a_budget_may_be_a_float(mode):
    """People write 1e8."""
    wanted = reference(build("mlp"), inputs("mlp"))
    assert error(jacobian(build("mlp"), inputs("mlp"), mode=mode, chunk_bytes=1e4), wanted) < 1e-10


# Outputs


@every_mode
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda x: x.mean(), "batch"),
        (lambda x: x.mean(0), "batch|across samples|over the batch"),
        (lambda x: x[0], "batch|indexing"),
        (lambda x: x[1:], "batch|indexing"),
        (lambda x: x.view(-1, 2), "batch|across samples"),
        (lambda x: torch.cat([x, x]), "batch"),
        (lambda x: (x, x), "tuple|type"),
        (lambda x: [x], "list|type"),
        (lambda x: {"y": x}, "dict|type"),
        (lambda x: None, "NoneType|type"),
        (lambda x: 3.0, "float|type"),
        (lambda x: x.argmax(1), "int64|argmax"),
        (lambda x: x > 0, "bool|gt"),
        (lambda x: torch.fft.fft(x), "complex|fft"),
        (lambda x: torch.ones(3), r"\(3,\)|does not depend"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_output_that_is_no_batch_of_numbers_is_refused(model, says, mode):
    with pytest.raises(JacobianError, match=says) as caught:
        jacobian(model, x(), mode=mode)
    line(caught)


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
def test_an_output_that_does_not_depend_on_the_input_has_a_jacobian_of_zeros(mode):
    weight = nn.Parameter(torch.randn(6, **DOUBLE))
    for model in (lambda x: torch.ones(len(x), 3, **DOUBLE), lambda x: weight.sin().expand(len(x), 6)):
        found = jacobian(model, x(), mode=mode)
        assert found.shape[0] == 5
        assert found.shape[2:] == (4,)
        assert (found == 0).all()


@every_mode
@pytest.mark.parametrize("model", [lambda x: x[:, :0], nn.Linear(4, 0, **DOUBLE), lambda x: x.sort(1)[0][:, 4:]])
def test_an_output_without_entries_has_an_empty_jacobian_or_is_refused(model, mode):
    with contextlib.suppress(JacobianError):
        assert jacobian(model, x(), mode=mode).shape == (5, 0, 4)


# Samples that couple, noise


class Net(nn.Module):
    """A network with a part that may be in training mode, behind what may have no rule."""

    def __init__(self, part, rule):
        super().__init__()
        self.first, self.part, self.rule = nn.Linear(4, 4, **DOUBLE), part, rule

    def forward(self, x):
        x = self.first(x)
        return self.part(x if self.rule else x.cumsum(1))


TRAINING = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4, **DOUBLE), "couples"),
    "BatchNorm1d-without-statistics": (lambda: nn.BatchNorm1d(4, track_running_stats=False, **DOUBLE), "couples"),
    "Dropout": (lambda: nn.Dropout(0.3), "draws"),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.3), "draws"),
}


@every_mode
@pytest.mark.parametrize("rule", [True, False], ids=["rules", "no-rules"])
@pytest.mark.parametrize("name", TRAINING)
def test_training_mode_is_refused_and_the_module_named(name, rule, mode):
    make, says = TRAINING[name]
    model = Net(make(), rule).train()
    before = copy.deepcopy(model.state_dict())
    if mode == "layerwise" and not rule:
        with pytest.raises(JacobianError):
            jacobian(model, x(), mode=mode)
    else:
        with pytest.raises(JacobianError, match=rf"part \({name.split('-')[0]}\).*{says}.*model\.eval\(\)") as caught:
            jacobian(model, x(), mode=mode)
        line(caught)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.part.training


@every_mode
@pytest.mark.parametrize("rule", [True, False], ids=["rules", "no-rules"])
@pytest.mark.parametrize("name", TRAINING)
def test_training_mode_inside_a_plain_function_is_refused_too(name, rule, mode):
    model = Net(TRAINING[name][0](), rule).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(JacobianError) as caught:
        jacobian(lambda x: model(x), x(), mode=mode)
    if rule or mode != "layerwise":
        assert "model.eval()" in line(caught)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


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


@every_mode
@pytest.mark.parametrize("name", FUNCTIONAL)
def test_noise_and_batch_statistics_in_a_plain_function_are_refused(name, mode):
    with pytest.raises(JacobianError, match=r"model\.eval\(\)|no layerwise rule"):
        jacobian(FUNCTIONAL[name], x(), mode=mode)
    with pytest.raises(JacobianError, match=r"model\.eval\(\)|no layerwise rule"):
        jacobian(lambda x: FUNCTIONAL[name](x.cumsum(1)), x(), mode=mode)


@pytest.mark.parametrize("mode", ["auto", "reverse"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True, **DOUBLE),
        lambda: nn.LSTM(4, 3, num_layers=2, dropout=0.5, batch_first=True, **DOUBLE),
    ],
    ids=["attention", "LSTM"],
)
def test_dropout_that_is_no_module_of_its_own_is_refused(make, mode):
    part = make().train()
    arguments = 3 if isinstance(part, nn.MultiheadAttention) else 1
    tokens = torch.randn(5, 3, 4, **DOUBLE)
    with pytest.raises(JacobianError, match=r"model\.eval\(\)"):
        jacobian(lambda x: part(*[x] * arguments)[0], tokens, mode=mode)
    part.eval()
    assert jacobian(lambda x: part(*[x] * arguments)[0], tokens, mode=mode).shape[0] == 5


@every_mode
def test_dropout_with_probability_zero_is_no_noise(mode):
    model = nn.Sequential(nn.Linear(4, 3, **DOUBLE), nn.Dropout(0.0)).train()
    assert error(jacobian(model, x(), mode=mode), reference(model, x())) < 1e-10


# What layerwise cannot do


def test_layerwise_names_the_operation_the_module_and_what_to_use():
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Tanh(), nn.Unflatten(1, (2, 3)), nn.GRU(3, 2))).double()
    with pytest.raises(NoRuleError, match=r"1\.2=gru.*no layerwise rule.*mode='reverse'") as caught:
        jacobian(model, x(), mode="layerwise")
    line(caught)


def test_layerwise_names_the_module_inside_one_that_is_no_sequential():
    with pytest.raises(NoRuleError, match=r"encoder.*gru"):
        jacobian(build("recurrent"), inputs("recurrent"), mode="layerwise")


def test_layerwise_names_an_attribute_that_it_cannot_follow():
    with pytest.raises(NoRuleError, match=r"\bT\b|transpos"):
        jacobian(lambda x: x.T, x(), mode="layerwise")


# Numbers that are not finite on the way


@every_mode
@pytest.mark.parametrize("where", ["0.weight", "2.weight"])
def test_a_weight_of_nan_is_an_error(where, mode):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model.get_parameter(where)[1, 2] = float("nan")
    with pytest.raises(JacobianError, match=r"jacobian=nan.*finite"):
        jacobian(model, x(), mode=mode)


@every_mode
@pytest.mark.parametrize("where", ["0.weight", "0.bias", "2.weight"])
def test_a_nan_that_a_relu_hides_is_an_error_too(where, mode):
    """The value is NaN at every sample: no slope there means anything, finite or not."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model.get_parameter(where)[:] = float("nan")
    with pytest.raises(JacobianError):
        jacobian(model, x(), mode=mode)


@every_mode
@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.log(x * 0),
        lambda x: 1 / (x - x),
        lambda x: (x * 0) ** 0.5,
        lambda x: torch.sqrt(x * 0).exp(),
        lambda x: x * float("inf"),
    ],
)
def test_an_infinite_slope_is_an_error_with_its_place(function, mode):
    with pytest.raises(JacobianError, match=r"jacobian=.*not finite, the first at \(\d, \d, \d\)") as caught:
        jacobian(function, x(), mode=mode)
    line(caught)


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


# What forward mode cannot give


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)).double(),
        lambda x: F.layer_norm(x.sin(), (4,)),
        lambda x: torch.layer_norm(x.sin(), (4,)),
        lambda x: torch.native_layer_norm(x.sin(), (4,), None, None, 1e-5)[0],
        nn.Sequential(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2)),
        lambda x: F.instance_norm(x.unflatten(1, (2, 2)).sin()),
    ],
    ids=["LayerNorm", "F.layer_norm", "torch.layer_norm", "native", "InstanceNorm", "F.instance_norm"],
)
def test_forward_mode_refuses_a_tape_where_torch_would_give_a_wrong_gradient(model):
    with pytest.raises(JacobianError, match=r"create_graph=True.*mode='reverse'"):
        jacobian(model, x().requires_grad_(), mode="forward", create_graph=True)
    assert error(jacobian(model, x(), mode="forward"), reference(model, x())) < 1e-10


# What keeps its derivative to itself


class Reversed(torch.autograd.Function):
    """A gradient reversal: its derivative is not that of what it computes."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -g


def without_tape(x):
    with torch.no_grad():
        y = torch.sin(x)
    return y + 2 * x


@pytest.mark.parametrize(("function", "slope"), [(lambda x: Reversed.apply(x) * 2, -2), (without_tape, 2)])
def test_a_derivative_that_is_declared_is_taken_and_not_computed(function, slope):
    with pytest.raises(NoRuleError, match=r"autograd\.Function or torch\.no_grad"):
        jacobian(function, x(), mode="layerwise")
    wanted = slope * torch.eye(4, **DOUBLE).expand(5, 4, 4)
    assert torch.equal(jacobian(function, x()), wanted)
    assert torch.equal(jacobian(function, x(), mode="reverse"), wanted)


def test_forward_mode_says_what_to_use_where_there_is_no_forward_derivative():
    with pytest.raises(JacobianError, match=r"mode=forward.*mode='reverse'") as caught:
        jacobian(lambda x: Reversed.apply(x), x(), mode="forward")
    line(caught)


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(0),
        lambda x: x.softmax(0),
        lambda x: x.cumsum(0),
        lambda x: x.flip(0),
        lambda x: (x.mT @ torch.ones(5, 5, **DOUBLE)).mT,
    ],
)
def test_samples_that_are_mixed_are_refused(function, mode):
    with pytest.raises(JacobianError, match="mixes the samples") as caught:
        jacobian(function, x(), mode=mode)
    line(caught)


def test_a_single_sample_without_a_batch_is_refused():
    square = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    with pytest.raises(JacobianError, match=r"x\.unsqueeze\(0\)"):
        jacobian(square, x()[0])
