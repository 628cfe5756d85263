"""Every rule gives the derivative of its function, in both directions, for every argument; or it refuses."""

import contextlib
import itertools
import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.examples import example
from support.jac_references import error, matrices, rows
from support.jac_references import jacobian as reference
from torch import nn

from nas.jac import jacobian
from nas.jac.errors import JacobianError, NoRuleError
from nas.jac.plan.maps import eye
from nas.jac.plan.trace import RULES

DOUBLE = {"dtype": torch.float64}
VECTOR, TOKENS, SIGNAL, PICTURE, VOLUME = (6,), (3, 4), (2, 7), (2, 5, 4), (2, 3, 4, 3)


def drawn(*shape, seed=7):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def positive(x):
    return x * x + 0.3


def inside(x):
    return torch.tanh(x) * 0.9


def above_one(x):
    return x * x + 1.2


MATRIX, ROW, EACH = drawn(6, 3), drawn(6), drawn(4, 1)
KERNEL = {1: drawn(4, 1, 3), 2: drawn(4, 1, 3, 2), 3: drawn(4, 1, 2, 2, 2)}
POSITIVE = "log log1p sqrt rsqrt reciprocal"
ANYWHERE = "exp expm1 sin cos tan atan sinh cosh asinh square erf abs neg relu tanh sigmoid"
UNARY = {
    **{name: lambda x: x for name in ANYWHERE.split()},
    **dict.fromkeys(POSITIVE.split(), positive),
    **dict.fromkeys(("asin", "acos", "atanh"), inside),
    "acosh": above_one,
}
ACTIVATIONS: dict[str, list[Callable]] = {
    "leaky_relu": [F.leaky_relu, lambda x: F.leaky_relu(x, 0.3), lambda x: F.leaky_relu(x, negative_slope=-0.2)],
    "elu": [F.elu, lambda x: F.elu(x, 0.7)],
    "selu": [F.selu, torch.selu],
    "celu": [F.celu, lambda x: F.celu(x, 0.7), torch.celu],
    "gelu": [F.gelu, lambda x: F.gelu(x, approximate="tanh")],
    "silu": [F.silu],
    "mish": [F.mish],
    "softplus": [F.softplus, lambda x: F.softplus(x, 3, 1), lambda x: F.softplus(x, beta=0.5, threshold=0.2)],
    "softsign": [F.softsign],
    "log_sigmoid": [F.logsigmoid, nn.LogSigmoid()],
    "hardtanh": [F.hardtanh, lambda x: F.hardtanh(x, -0.5, 0.7), nn.Hardtanh(-0.2, 0.1)],
    "hardswish": [F.hardswish],
    "hardsigmoid": [F.hardsigmoid],
    "relu6": [F.relu6],
    "relu": [F.relu, nn.ReLU(), lambda x: x.relu(), lambda x: torch.relu(input=x)],
    "tanhshrink": [F.tanhshrink],
    "hardshrink": [F.hardshrink, lambda x: F.hardshrink(x, 0.8)],
    "softshrink": [F.softshrink, lambda x: F.softshrink(x, 0.8)],
    "threshold": [lambda x: torch.threshold(x, 0.1, 3.0)],
    "_threshold": [lambda x: F.threshold(x, 0.1, 3.0), nn.Threshold(0.2, -1.0)],
}
ARITHMETIC: dict[str, list[Callable]] = {
    "pow": [
        lambda x: x**2,
        lambda x: x**3,
        lambda x: torch.pow(x, 1),
        lambda x: x.pow(0),
        lambda x: positive(x) ** -1,
        lambda x: positive(x) ** 0.5,
        lambda x: torch.pow(positive(x), exponent=-1.5),
    ],
    "clamp": [
        lambda x: x.clamp(-0.5, 0.5),
        lambda x: torch.clamp(x, min=0.1),
        lambda x: torch.clamp(input=x, max=0.1),
        lambda x: (x * 0).clamp(0.0, 1.0) + (x * 0 + 1).clamp(0.0, 1.0),  # at the bounds
    ],
    "clamp_min": [lambda x: x.clamp_min(0.2)],
    "clamp_max": [lambda x: torch.clamp_max(x, 0.2)],
    "add": [
        lambda x: x + 1,
        lambda x: 2 + x,
        lambda x: x + ROW,
        lambda x: ROW + x,
        lambda x: x + x,
        lambda x: x + x.sin(),
        lambda x: x.add(x.exp(), alpha=-0.5),
        lambda x: torch.add(ROW, x, alpha=3),
        lambda x: torch.add(x, other=x),
        lambda x: sum([x, x.sin(), x.cos()]),
        lambda x: x + EACH,
        lambda x: x + EACH.to(torch.float32),
        lambda x: x + torch.tensor(2),
    ],
    "sub": [
        lambda x: x - 1,
        lambda x: ROW - x,
        lambda x: x.sin() - x,
        lambda x: torch.sub(x, x.exp(), alpha=2),
        lambda x: x - x,
        lambda x: torch.sub(x, other=x * x),
    ],
    "subtract": [lambda x: torch.subtract(x, x.sin()), lambda x: x.subtract(1, alpha=2)],
    "mul": [
        lambda x: x * 2,
        lambda x: -3 * x,
        lambda x: x * ROW,
        lambda x: ROW * x,
        lambda x: x * x,
        lambda x: x * x * x,
        lambda x: x.sin() * x.exp() * ROW,
        lambda x: torch.mul(x, other=x),
        lambda x: x * EACH,
        lambda x: x * drawn(1, 6),
        lambda x: x * torch.tensor(0.3, **DOUBLE),
        lambda x: x * drawn(4, 6),
        lambda x: nn.Parameter(ROW) * x,
        lambda x: x * True,
    ],
    "multiply": [lambda x: x.multiply(x.sin())],
    "div": [
        lambda x: x / 3,
        lambda x: x / ROW,
        lambda x: ROW / positive(x),
        lambda x: x.sin() / positive(x),
        lambda x: positive(x) / (positive(x) + 1),
        lambda x: x / EACH,
        lambda x: torch.div(x, other=ROW),
    ],
    "divide": [lambda x: torch.divide(x, ROW)],
    "true_divide": [lambda x: torch.true_divide(x, positive(x))],
    "matmul": [lambda x: x @ MATRIX, lambda x: torch.matmul(x, MATRIX), lambda x: x.unflatten(1, (3, 2)) @ MATRIX[:2]],
    "mm": [lambda x: torch.mm(x, MATRIX), lambda x: x.mm(nn.Parameter(MATRIX))],
    "rsub": [lambda x: torch.rsub(x, 1), lambda x: torch.rsub(x, ROW), lambda x: torch.rsub(x, 2.0, alpha=3)],
}
OPERATORS = {
    name: lambda x, name=name: getattr(x, f"__{name}__")(positive(x)) for name in ["add", "sub", "mul", "truediv"]
}
REVERSED = {
    name: lambda x, name=name: getattr(positive(x), f"__{name}__")(1.5)
    for name in ["radd", "rsub", "rmul", "rtruediv", "rdiv"]
}
DUNDERS: dict[str, list[Callable]] = {
    **{f"__{name}__": [call] for name, call in {**OPERATORS, **REVERSED}.items()},
    "__pow__": [lambda x: operator.pow(x, 3)],
    "__neg__": [operator.neg],
    "__abs__": [operator.abs],
    "__matmul__": [lambda x: operator.matmul(x, MATRIX)],
}
# Rules for several dimensions: pairs of a call and a shape.
OF_SHAPES: dict[str, list[tuple[Callable, tuple]]] = {
    "linear": [
        (lambda x: F.linear(x, MATRIX.T), VECTOR),
        (lambda x: F.linear(x, drawn(2, 4), drawn(2)), TOKENS),
        (lambda x: F.linear(x, drawn(2, 4), bias=drawn(2)), PICTURE),
        (lambda x: F.linear(input=x, weight=MATRIX.T), VECTOR),
    ],
    "softmax": [
        (lambda x: F.softmax(x, 1), VECTOR),
        (lambda x: torch.softmax(x, -2), TOKENS),
        (lambda x: x.softmax(dim=2), TOKENS),
        (lambda x: F.softmax(x, dim=1, dtype=torch.float64), PICTURE),
        (lambda x: torch.softmax(input=x, dim=1), VECTOR),
        (nn.Softmax(-1), TOKENS),
    ],
    "log_softmax": [
        (lambda x: F.log_softmax(x, 1), VECTOR),
        (lambda x: torch.log_softmax(x, -2), TOKENS),
        (lambda x: x.log_softmax(1), PICTURE),
    ],
    "batch_norm": [
        (lambda x: F.batch_norm(x, drawn(2), drawn(2).abs(), drawn(2), drawn(2)), PICTURE),
        (lambda x: F.batch_norm(x, drawn(6), drawn(6).abs(), eps=0.1), VECTOR),
        (lambda x: F.batch_norm(x, drawn(3), drawn(3).abs(), bias=drawn(3)), TOKENS),
        (nn.BatchNorm3d(2, affine=False).double().eval(), VOLUME),
        (lambda x: torch.batch_norm(x, drawn(2), None, drawn(2), drawn(2).abs(), False, 0.1, 1e-3, False), PICTURE),
    ],
    "layer_norm": [
        (lambda x: F.layer_norm(x, (6,)), VECTOR),
        (lambda x: F.layer_norm(x, (4,), drawn(4), drawn(4), 0.1), TOKENS),
        (lambda x: F.layer_norm(x, [3, 4], weight=drawn(3, 4)), TOKENS),
        (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (2,), bias=drawn(2)), PICTURE),
        (lambda x: torch.layer_norm(x, (4,), None, None, 1e-3, False), TOKENS),
    ],
    "group_norm": [
        (lambda x: F.group_norm(x, 2, drawn(2), drawn(2)), PICTURE),
        (lambda x: F.group_norm(x, 1, eps=0.1), PICTURE),
        (lambda x: F.group_norm(x, 3, bias=drawn(6)), VECTOR),
        (lambda x: F.group_norm(x, 3), TOKENS),
        (lambda x: torch.group_norm(x, 2, None, None, 1e-3, False), PICTURE),
    ],
    "dropout": [
        (lambda x: F.dropout(x, 0.5, False), VECTOR),
        (lambda x: F.dropout(x, 0.0, True), VECTOR),
        (lambda x: F.dropout(x, training=False, inplace=True), VECTOR),
        (lambda x: torch.dropout(x, 0.5, False), VECTOR),
        (lambda x: torch.dropout(x, 0.5, train=False), VECTOR),
    ],
    **{
        f"dropout{d}d": [(getattr(nn, f"Dropout{d}d")().eval(), s)] for d, s in ((1, SIGNAL), (2, PICTURE), (3, VOLUME))
    },
    "alpha_dropout": [(nn.AlphaDropout().eval(), VECTOR)],
    "feature_alpha_dropout": [(nn.FeatureAlphaDropout().eval(), PICTURE)],
    "conv1d": [
        (lambda x: F.conv1d(x, KERNEL[1], groups=2, padding=1), SIGNAL),
        (lambda x: F.conv1d(x, drawn(3, 2, 3), drawn(3), 2, 2, 2), SIGNAL),
        (lambda x: F.conv1d(x, drawn(3, 2, 3), stride=[2], padding="valid"), SIGNAL),
        (lambda x: F.conv1d(input=x, weight=drawn(3, 2, 3), padding="same"), SIGNAL),
    ],
    "conv2d": [
        (lambda x: F.conv2d(x, KERNEL[2], None, 1, (1, 0), 1, 2), PICTURE),
        (lambda x: F.conv2d(x, drawn(3, 2, 2, 3), drawn(3), (2, 1), (0, 3), (1, 2)), PICTURE),
        (lambda x: F.conv2d(x, drawn(3, 2, 3, 1), padding="same", dilation=2), PICTURE),
        (lambda x: torch.conv2d(x, drawn(3, 2, 3, 3), bias=drawn(3), stride=3, padding=2), PICTURE),
    ],
    "conv3d": [
        (lambda x: F.conv3d(x, KERNEL[3], groups=2, padding=(1, 0, 1)), VOLUME),
        (lambda x: F.conv3d(x, drawn(1, 2, 2, 3, 1), drawn(1), stride=2, padding=1), VOLUME),
    ],
    "max_pool1d": [
        (lambda x: F.max_pool1d(x, 3, 2, 1, ceil_mode=True), SIGNAL),
        (lambda x: F.max_pool1d(x, 2, dilation=3), SIGNAL),
        (lambda x: torch.max_pool1d(x, 2), SIGNAL),
    ],
    "max_pool2d": [
        (lambda x: F.max_pool2d(x, 2), PICTURE),
        (lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), ceil_mode=True), PICTURE),
        (lambda x: F.max_pool2d(F.relu(x), 2, 1), PICTURE),  # ties
        (lambda x: F.max_pool2d(x, kernel_size=2, stride=1, dilation=2), PICTURE),
        (lambda x: torch.max_pool2d(x, 2, stride=[2, 2]), PICTURE),
    ],
    "max_pool3d": [(lambda x: F.max_pool3d(x, 2, 1, 1), VOLUME)],
    "adaptive_max_pool2d": [
        (lambda x: F.adaptive_max_pool2d(x, 2), PICTURE),
        (lambda x: F.adaptive_max_pool2d(x, (None, 3)), PICTURE),
    ],
    "avg_pool1d": [(lambda x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), SIGNAL)],
    "avg_pool2d": [
        (lambda x: F.avg_pool2d(x, 2), PICTURE),
        (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), PICTURE),
        (lambda x: F.avg_pool2d(x, (2, 3), divisor_override=5), PICTURE),
    ],
    "avg_pool3d": [(lambda x: F.avg_pool3d(x, 2, stride=1, padding=1, count_include_pad=False), VOLUME)],
    "adaptive_avg_pool1d": [(lambda x: F.adaptive_avg_pool1d(x, 3), SIGNAL)],
    "adaptive_avg_pool2d": [
        (lambda x: F.adaptive_avg_pool2d(x, (4, None)), PICTURE),
        (lambda x: F.adaptive_avg_pool2d(x, 1), PICTURE),
    ],
    "adaptive_avg_pool3d": [(lambda x: F.adaptive_avg_pool3d(x, 2), VOLUME)],
    "flatten": [
        (lambda x: x.flatten(1), PICTURE),
        (lambda x: torch.flatten(x, start_dim=-2), PICTURE),
        (lambda x: x.flatten(1, 2), VOLUME),
        (lambda x: torch.flatten(input=x, start_dim=1), TOKENS),
    ],
    "reshape": [
        (lambda x: x.reshape(4, -1), TOKENS),
        (lambda x: x.reshape((len(x), 2, 6)), TOKENS),
        (lambda x: torch.reshape(x, (-1, 12)), TOKENS),
        (lambda x: x.transpose(1, 2).reshape(x.shape[0], 6, 2), TOKENS),
    ],
    "view": [(lambda x: x.view(x.size(0), -1), TOKENS), (lambda x: x.view(torch.Size([4, 2, 6])), TOKENS)],
    "unsqueeze": [(lambda x: x.unsqueeze(1), TOKENS), (lambda x: torch.unsqueeze(x, dim=-1), VECTOR)],
    "squeeze": [(lambda x: x[:, None].squeeze(1), VECTOR), (lambda x: x.unsqueeze(-1).squeeze(), TOKENS)],
    "unflatten": [(lambda x: x.unflatten(1, (2, -1)), VECTOR), (nn.Unflatten(1, (3, 2)), VECTOR)],
    "mean": [
        (lambda x: x.mean(1), TOKENS),
        (lambda x: x.mean((-1, -2), keepdim=True), PICTURE),
        (lambda x: torch.mean(x, dim=(1, 2)), PICTURE),
        (lambda x: x.mean(axis=-1), TOKENS),
        (lambda x: x.mean(1, True), VECTOR),
    ],
    "sum": [
        (lambda x: x.sum(-1), TOKENS),
        (lambda x: torch.sum(x, [2, 3]), PICTURE),
        (lambda x: x.sum(1, keepdim=True), VECTOR),
        (lambda x: x.sum(1, dtype=torch.float64), TOKENS),
    ],
    "pad": [
        (lambda x: F.pad(x, (1, 2)), VECTOR),
        (lambda x: F.pad(x, (1, 0, 2, 1), value=3.0).sin(), PICTURE),
        (lambda x: F.pad(x, (-1, 1, 0, -2), "constant", -2.0).exp(), PICTURE),
        (lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), PICTURE),
        (lambda x: F.pad(x, (1, 2, 0, 1), "replicate"), PICTURE),
        (lambda x: F.pad(x, (3, 2), mode="circular"), SIGNAL),
        (nn.ZeroPad2d(1), PICTURE),
        (nn.ConstantPad1d(2, 1.5), SIGNAL),
    ],
    "permute": [
        (lambda x: x.permute(0, 2, 1), TOKENS),
        (lambda x: x.permute((0, -1, 1, 2)), PICTURE),
        (lambda x: torch.permute(x, (-4, 3, 1, 2)), PICTURE),
        (lambda x: x.permute(dims=(0, 2, 1)), TOKENS),
    ],
    "transpose": [(lambda x: x.transpose(1, 2), TOKENS), (lambda x: torch.transpose(x, -1, -3), PICTURE)],
    "__getitem__": [
        (lambda x: x[:, 1], TOKENS),
        (lambda x: x[:, -1, ::2], TOKENS),
        (lambda x: x[:, None], VECTOR),
        (lambda x: x[:, ::2], VECTOR),
        (lambda x: x[:, :, 1:-1, ..., 0], PICTURE),
        (lambda x: x[:, 4:5], VECTOR),
        (lambda x: torch.cat([x[:, 0:0], x], 1), VECTOR),
    ],
    "chunk": [
        (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], VECTOR),
        (lambda x: torch.chunk(x, 3, dim=-1)[1], TOKENS),
        (lambda x: torch.cat([part * i for i, part in enumerate(x.chunk(4, -1))], 1), VECTOR),
    ],
    "cat": [
        (lambda x: torch.cat([x, x.sin()], 1), VECTOR),
        (lambda x: torch.cat((drawn(4, 2), x, x * x, drawn(4, 1)), dim=-1), VECTOR),
        (lambda x: torch.cat([x, x.exp()], -2), TOKENS),
        (lambda x: torch.cat(tensors=[x, x], dim=2), PICTURE),
        (lambda x: torch.cat([x, x], axis=1), TOKENS),
    ],
    "concat": [(lambda x: torch.concat([x, x * 2], 1), VECTOR)],
    "concatenate": [(lambda x: torch.concatenate([x, x * 2], dim=1), VECTOR)],
    "clone": [
        (lambda x: x.clone(), VECTOR),
        (lambda x: torch.clone(x, memory_format=torch.contiguous_format), PICTURE),
    ],
    "contiguous": [(lambda x: x.transpose(1, 2).contiguous(), TOKENS)],
}
EXAMPLES: dict[str, list[tuple[Callable, tuple]]] = {}
for _name, _domain in UNARY.items():
    for _function in (getattr(torch, _name), getattr(torch.Tensor, _name)):
        EXAMPLES.setdefault(_name, []).append((lambda x, f=_function, d=_domain: f(d(x)), VECTOR))
for _table in (ACTIVATIONS, ARITHMETIC, DUNDERS):
    for _name, _calls in _table.items():
        EXAMPLES.setdefault(_name, []).extend((call, VECTOR) for call in _calls)
for _name, _pairs in OF_SHAPES.items():
    EXAMPLES.setdefault(_name, []).extend(_pairs)


def inputs_of(name):
    """Every example of a rule, with an input for it."""
    for number, (call, shape) in enumerate(EXAMPLES[name], start=1):
        yield call, drawn(4, *shape, seed=number) * 1.5


def test_every_rule_has_an_example_that_meets_it(monkeypatch):
    met = set()

    def watched(name, rule):
        return lambda *args, **kwargs: met.add(name) or rule(*args, **kwargs)

    for name, rule in sorted(RULES.items()):
        assert name in EXAMPLES, f"{name}: a rule for what no torch function is called, or an example is missing here"
        # Which of two names an operator goes by depends on torch.
        same = [other for other, own in RULES.items() if own is rule or other == name.strip("_")]
        with monkeypatch.context() as patch:
            for other in same if name in DUNDERS else [name]:
                patch.setitem(RULES, other, watched(name, RULES[other]))
            for call, x in inputs_of(name):
                jacobian(lambda x, call=call: call(x), x)
    assert met == set(RULES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_rule_is_the_derivative_both_ways(name):
    for number, (call, x) in enumerate(inputs_of(name)):
        with example(number):
            function = lambda x, call=call: call(x)  # noqa: E731
            wanted = reference(function, x)
            assert error(jacobian(function, x, mode="layerwise"), wanted) < 1e-10
            assert_both_ways(jacobian(function, x, factored=True), function(x), matrices(wanted, x), x)
            if name != "hardsigmoid":  # torch has no second derivative of it
                assert_differentiable_again(function, x.requires_grad_())


def assert_both_ways(record, value, j, x):
    """A recorded Jacobian is ``j``, whether directions travel forwards or backwards, all units or one vector."""
    assert error(record.value, value) < 1e-12
    with torch.no_grad():
        pushed = record.graph.jvp(eye(record.graph.start.width, record.graph.start.shape, x), record.graph.stop)
        pulled = record.graph.vjp(eye(record.graph.stop.width, record.graph.stop.shape, x), record.graph.start)
    for found in (pushed.flatten(2).mT, pulled.flatten(2)):
        assert error(found.expand(4, -1, -1), j) < 1e-10
    v, u = drawn(*x.shape, seed=3), drawn(*record.value.shape, seed=4)
    along, back = torch.einsum("bmn,bn->bm", j, v.flatten(1)), torch.einsum("bmn,bm->bn", j, u.flatten(1))
    assert (record.mv(v) - along.view(u.shape)).abs().max() < 1e-10
    assert (record.vm(u) - back.view(v.shape)).abs().max() < 1e-10


def assert_differentiable_again(function, x):
    """Where J does not depend on ``x``, one of the two has a tape to somewhere else or none."""
    jacobians = jacobian(function, x, mode="layerwise", create_graph=True), rows(function(x), x, keep=True)
    weights = drawn(*jacobians[0].shape, seed=5)
    first, second = (
        torch.autograd.grad((j * weights).sum(), x, materialize_grads=True, allow_unused=True)[0]
        if j.requires_grad
        else torch.zeros_like(x)
        for j in jacobians
    )
    assert error(first, second) < 1e-9


# In place: later code sees the new value, earlier results keep the old one

IN_PLACE: dict[str, Callable] = {
    **{f"{name}_": getattr(torch.Tensor, f"{name}_") for name in ANYWHERE.split() if name != "asinh"},
    "torch.relu_": torch.relu_,
    "relu_ by keyword": lambda h: torch.relu_(input=h),
    "add_": lambda h: h.add_(h.exp(), alpha=2),
    "add_ number": lambda h: h.add_(3),
    "sub_": lambda h: h.sub_(ROW),
    "mul_ row": lambda h: h.mul_(ROW),
    "div_": lambda h: h.div_(ROW),
    "pow_": lambda h: h.pow_(3),
    "clamp_": lambda h: h.clamp_(-0.3, 0.6),
    "leaky_relu(inplace)": lambda h: F.leaky_relu(h, 0.2, True),
    "relu(inplace)": lambda h: F.relu(h, inplace=True),
    "elu(inplace)": lambda h: F.elu(h, 1.0, True),
    "hardtanh(inplace)": lambda h: F.hardtanh(h, -1, 1, True),
    "silu(inplace)": lambda h: F.silu(h, True),
    "relu6": nn.ReLU6(inplace=True),
    "selu(inplace)": lambda h: F.selu(h, True),
    "celu(inplace)": lambda h: F.celu(h, 1.0, True),
    "mish": nn.Mish(inplace=True),
    "dropout(inplace)": lambda h: F.dropout(h, 0.5, False, True),
    "in a Sequential": nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
    "+=": lambda h: operator.iadd(h, h.exp()),
    "-=": lambda h: operator.isub(h, 1),
    "*=": lambda h: operator.imul(h, ROW),
    "/=": lambda h: operator.itruediv(h, 2),
    "**=": lambda h: operator.ipow(h, 2),
}


@pytest.mark.parametrize("mode", ["layerwise", "auto"])
def test_in_place_changes_what_later_code_sees(mode):
    x = drawn(4, 6)
    for name, change in IN_PLACE.items():

        def function(x, change=change):
            h = x * 1.3
            same, before = h, h + 1
            out = change(h)
            return torch.cat([h, same * 2, before, out * h], 1)

        with example(name):
            assert error(jacobian(function, x, mode=mode), reference(function, x)) < 1e-10


ALIASES = {
    "dropout in evaluation": lambda h: F.dropout(h, 0.5, False),
    "Dropout": nn.Dropout().eval(),
    "Identity": nn.Identity(),
    "empty Sequential": nn.Sequential(),
    "contiguous": lambda h: h.contiguous(),
    "clone": lambda h: h.clone(),
    "alpha_dropout": lambda h: F.alpha_dropout(h, 0.5, False),
}


@pytest.mark.parametrize("original", [False, True])
def test_in_place_on_an_alias_changes_both_names(original):
    x = drawn(4, 6)
    for name, alias in ALIASES.items():

        def function(x, alias=alias):
            h = x * 1.3
            other = alias(h)
            (h if original else other).relu_()
            return h.sin() + other * 2

        with example(name):
            assert error(jacobian(function, x), reference(function, x)) < 1e-10


VIEWS = {
    "view": lambda h: h.view(len(h), 2, 3),
    "flatten": lambda h: h.flatten(1),
    "reshape": lambda h: h.reshape(len(h), 3, 2),
    "unsqueeze": lambda h: h.unsqueeze(1),
    "squeeze": lambda h: h.unsqueeze(1).squeeze(1),
    "unflatten": lambda h: h.unflatten(1, (3, 2)),
    "index": lambda h: h[:, 1:4],
    "transpose": lambda h: h.unflatten(1, (3, 2)).transpose(1, 2),
    "permute": lambda h: h.permute(0, 1),
}


@pytest.mark.parametrize("original", [False, True])
def test_in_place_on_a_view_is_refused(original):
    x = drawn(4, 6)
    for name, view_of in VIEWS.items():

        def function(x, view_of=view_of):
            h = x * 1.3
            view = view_of(h)
            (h if original else view).mul_(3)
            return torch.cat([h.sin(), view.flatten(1).exp()], 1)

        with example(name):
            assert_refused_and_right(function, x, "in place on a view")


def assert_refused_and_right(function, x, match=None):
    """Mode ``layerwise`` refuses, and ``auto`` gets it right another way."""
    with pytest.raises(NoRuleError, match=match):
        jacobian(function, x, mode="layerwise")
    assert error(jacobian(function, x), reference(function, x)) < 1e-10


def test_assignment_to_a_part_is_refused():
    def function(x):
        h = x * 2
        h[:, :3] = 0
        h[:, 4] *= x[:, 0]
        return h

    assert_refused_and_right(function, drawn(4, 6))


# Constants of other types, and what a rule cannot do

CONSTANTS = {
    "integers": torch.tensor([1, 2, 3, 4, 5, 7]),
    "booleans": torch.tensor([True, False, True, True, False, True]),
    "float32": torch.tensor([0.1, 0.7, 1.3, 3.0, -0.3, 0.9]),
    "float32 number": torch.tensor(0.3),
    "integer": torch.tensor(3),
    "bfloat16": torch.tensor([0.1, 0.7, 1.3, 3.0, -0.3, 0.9]).bfloat16(),
}
WITH_CONSTANT = {
    "mul": lambda x, c: x * c,
    "add": lambda x, c: (x + c) ** 2,
    "div": lambda x, c: (x / c) if c.dtype != torch.bool else x / (c + 1),
    "div into": lambda x, c: c / positive(x),
    "sub from": lambda x, c: (c - x) ** 2 if c.dtype != torch.bool else (c * 1 - x) ** 2,
    "alpha": lambda x, c: torch.add(c, x, alpha=3) ** 2,
    "cat": lambda x, c: torch.cat([x, c.expand(4, 6)], 1).exp(),
}


@pytest.mark.parametrize("operation", WITH_CONSTANT)
def test_constants_of_another_type_cost_no_precision(operation):
    for constant, last in itertools.product(CONSTANTS, (True, False)):

        def function(x, constant=constant, last=last):
            out = WITH_CONSTANT[operation](x @ drawn(6, 6), CONSTANTS[constant])
            return out if last else torch.sin(out) @ drawn(out.shape[1], 6)

        with example(constant, last):
            x = drawn(4, 6)
            ours, wanted = jacobian(function, x, mode="layerwise"), reference(function, x)
            assert ours.dtype == wanted.dtype
            assert error(ours, wanted) < 1e-10
            if wanted.shape[1] == 6:
                found, known = jacobian(function, x, factored=True).logabsdet(), torch.linalg.slogdet(wanted)[1]
                regular = known > -15
                assert found.dtype == known.dtype
                assert torch.allclose(found[regular], known[regular], rtol=0, atol=1e-9)
                assert (found[~regular] < -15).all()


def test_a_wider_type_inside_keeps_the_inputs_type():
    """A float32 input that meets float64 constants: autograd's gradient is float32."""
    first, last = nn.Linear(6, 5), nn.Linear(5, 3).double()
    function = lambda x: last(first(x) * torch.ones(5, **DOUBLE))  # noqa: E731
    x = drawn(4, 6).float()
    for mode in ("auto", "reverse", "forward"):
        ours = jacobian(function, x, mode=mode)
        assert ours.dtype == torch.float32
        assert error(ours, reference(function, x)) < 1e-5


def test_a_type_given_by_position_is_heeded():
    x = drawn(4, 6).float()
    wanted = reference(lambda x: x.softmax(1, torch.float64), x)
    assert error(jacobian(lambda x: x.softmax(1, torch.float64), x), wanted) < 1e-6
    with contextlib.suppress(NoRuleError):
        assert jacobian(lambda x: x.softmax(1, torch.float64), x, factored=True).value.dtype == torch.float64


ODD = {
    "rounding": lambda x: torch.div(x, 0.3, rounding_mode="floor") + x,
    "base to the power of x": lambda x: 2**x,
    "x to the power of x": lambda x: positive(x) ** x,
    "x to the power of a row": lambda x: positive(x) ** ROW,
    "clamped by a row": lambda x: x.clamp(min=ROW),
    "positive": lambda x: +x,
    "matrix from the left": lambda x: (drawn(5, 6) @ x.mT).mT,
    "matrix times vector": lambda x: x.unflatten(1, (3, 2)) @ ROW[:2],
    "batch of matrices": lambda x: x.unsqueeze(1) @ drawn(4, 6, 2),
    "a weight made of x": lambda x: x.unflatten(1, (3, 2)) @ x.unflatten(1, (3, 2)).mT,
    "broadcast": lambda x: x[:, :1] * ROW,
    "mean taken off": lambda x: x - x.mean(1, keepdim=True),
    "softmax by hand": lambda x: x.exp() / x.exp().sum(1, keepdim=True),
    "even kernel, same": lambda x: F.conv1d(x.unsqueeze(1), drawn(1, 1, 2), padding="same"),
    "ellipsis": lambda x: x[..., 1:],
    "all": lambda x: x[:],
    "list": lambda x: x[:, [0, 2]],
    "mask": lambda x: x * (x > 0),
    "where": lambda x: torch.where(x > 0, x, x * x),
    "by bits": lambda x: x * x.view(torch.int64).bitwise_and(1),
    "stack": lambda x: torch.stack([x, x * x], 1),
    "split": lambda x: x.split(2, 1)[1],
    "empty": lambda x: torch.cat([torch.empty(0, **DOUBLE), x], 1),
    "indices": lambda x: F.max_pool1d(x.unsqueeze(1), 2, return_indices=True)[0],
    "unpooled": lambda x: F.max_unpool1d(*F.max_pool1d(x.unsqueeze(1), 2, return_indices=True), 2),
    "prelu": nn.PReLU().double(),
    "transposed convolution": nn.Sequential(nn.Unflatten(1, (2, 3)), nn.ConvTranspose1d(2, 1, 3)).double(),
    "out": lambda x: torch.fft.fft(x).real,
}


def test_what_no_rule_covers_is_refused_or_right():
    x = drawn(4, 6)
    for name, function in ODD.items():
        with example(name):
            wanted = reference(function, x)
            assert error(jacobian(function, x), wanted) < 1e-10
            with contextlib.suppress(NoRuleError):
                assert error(jacobian(function, x, mode="layerwise"), wanted) < 1e-10


COUPLED = {
    "view": lambda x: x.view(-1, 3),
    "view that keeps the batch size": lambda x: x.t().reshape(6, 6),
    "view with another first size": lambda x: x.view(2, 18),
    "one sample": lambda x: x[0],
    "samples": lambda x: x[1:],
    "mean over samples": lambda x: x - x.mean(0),
    "sum over samples": lambda x: x * x.sum(0, keepdim=True),
    "sum over samples, counted from the end": lambda x: x - x.sum(-2, keepdim=True),
    "mean over all": lambda x: x - x.mean(),
    "gram": lambda x: x.T @ x,
    "gram the other way": lambda x: x @ x.T,
    "permute": lambda x: x.permute(1, 0),
    "transpose": lambda x: x.transpose(0, 1),
    "softmax over samples": lambda x: F.softmax(x, 0),
    "softmax over samples, counted from the end": lambda x: x.softmax(-2),
    "log_softmax over samples": lambda x: x.log_softmax(0),
    "sort": lambda x: x.sort(0)[0],
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 0),
    "cumsum": lambda x: x.cumsum(0),
    "chunk": lambda x: torch.cat(x.chunk(2)[::-1]),
    "cat": lambda x: torch.cat([x, x * x])[:6],
    "flatten": lambda x: x.flatten().view(6, 6).t(),
    "unsqueeze": lambda x: x.unsqueeze(0).softmax(1).squeeze(0),
    "layer norm over samples": lambda x: F.layer_norm(x, (6, 6)),
    "samples as channels": lambda x: F.conv1d(x, drawn(6, 6, 1)),
    "pooling over samples": lambda x: F.avg_pool2d(x.unsqueeze(0).unsqueeze(0), 3, 1, 1)[0, 0],
    "pooling a single picture": lambda x: F.max_pool2d(x.unsqueeze(1).transpose(0, 1), 3, 1, 1)[0],
    "pad": lambda x: F.pad(x, (0, 0, 1, 0))[:6],
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "linear on columns": lambda x: F.linear(x.T, drawn(6, 6)).T,
}


def test_layerwise_refuses_what_mixes_samples():
    """Six samples of six entries, so that no shape gives the mixture away."""
    for name, function in COUPLED.items():
        with example(name), pytest.raises(JacobianError):
            jacobian(function, drawn(6, 6), mode="layerwise")


def test_division_by_zero_is_an_error_of_ours():
    for mode in ("auto", "layerwise", "reverse"):
        with pytest.raises(JacobianError, match="finite"):
            jacobian(lambda x: x / 0, drawn(4, 6), mode=mode)
