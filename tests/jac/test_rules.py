"""Every rule gives the derivative of its function, in both directions, for every argument; or it refuses."""

import contextlib
import itertools
import re

import pytest
import torch
from support.examples import calls, example
from support.jac_references import error, matrices, rows
from support.jac_references import jacobian as reference
from torch import nn

from nas.jac import jacobian
from nas.jac.errors import JacobianError, NoRuleError
from nas.jac.plan.maps import eye
from nas.jac.plan.trace import RULES

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=7):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def positive(x):
    return x * x + 0.3


MATRIX, ROW, EACH = drawn(6, 3), drawn(6), drawn(4, 1)
TURNED = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.ConvTranspose1d(2, 1, 3)).double()
KNOWN = {"drawn": drawn, "positive": positive, "MATRIX": MATRIX, "ROW": ROW, "EACH": EACH, "TURNED": TURNED, **DOUBLE}
SHAPES = {"tokens": (3, 4), "signal": (2, 7), "picture": (2, 5, 4), "volume": (2, 3, 4, 3), "x": (6,)}
ANYWHERE = "exp expm1 sin cos tan atan sinh cosh asinh square erf abs neg relu tanh sigmoid"
GENERATED = {
    "torch.{0}(x); x.{0}()": ANYWHERE,
    "torch.{0}(positive(x)); positive(x).{0}()": "log log1p sqrt rsqrt reciprocal",
    "torch.{0}(torch.tanh(x) * 0.9); (torch.tanh(x) * 0.9).{0}()": "asin acos atanh",
    "torch.{0}(x * x + 1.2); (x * x + 1.2).{0}()": "acosh",
    "F.{0}(x)": "relu leaky_relu elu selu celu gelu silu mish softplus softsign hardtanh hardswish hardsigmoid relu6",
    "F.{0}(x) ": "tanhshrink hardshrink softshrink",
    "x.{0}(positive(x))": "__add__ __sub__ __mul__ __truediv__",
    "positive(x).{0}(1.5)": "__radd__ __rsub__ __rmul__ __rtruediv__ __rdiv__",
    "x.{0}()": "__neg__ __abs__",
}
CALLS = """
leaky_relu: F.leaky_relu(x, 0.3); F.leaky_relu(x, negative_slope=-0.2)
elu: F.elu(x, 0.7)
selu: torch.selu(x)
celu: F.celu(x, 0.7); torch.celu(x)
gelu: F.gelu(x, approximate="tanh")
softplus: F.softplus(x, 3, 1); F.softplus(x, beta=0.5, threshold=0.2)
log_sigmoid: F.logsigmoid(x); nn.LogSigmoid()(x)
hardtanh: F.hardtanh(x, -0.5, 0.7); nn.Hardtanh(-0.2, 0.1)(x)
relu: nn.ReLU()(x); torch.relu(input=x)
hardshrink: F.hardshrink(x, 0.8)
softshrink: F.softshrink(x, 0.8)
threshold: torch.threshold(x, 0.1, 3.0)
_threshold: F.threshold(x, 0.1, 3.0); nn.Threshold(0.2, -1.0)(x)
pow: x**2; x**3; torch.pow(x, 1); x.pow(0); positive(x) ** -1; positive(x) ** 0.5
    torch.pow(positive(x), exponent=-1.5)
clamp: x.clamp(-0.5, 0.5); torch.clamp(x, min=0.1); torch.clamp(input=x, max=0.1)
    (x * 0).clamp(0.0, 1.0) + (x * 0 + 1).clamp(0.0, 1.0)
clamp_min: x.clamp_min(0.2)
clamp_max: torch.clamp_max(x, 0.2)
add: x + 1; 2 + x; x + ROW; ROW + x; x + x; x + x.sin(); x.add(x.exp(), alpha=-0.5); torch.add(ROW, x, alpha=3)
    torch.add(x, other=x); sum([x, x.sin(), x.cos()]); x + EACH; x + EACH.to(torch.float32); x + torch.tensor(2)
sub: x - 1; ROW - x; x.sin() - x; torch.sub(x, x.exp(), alpha=2); x - x; torch.sub(x, other=x * x)
subtract: torch.subtract(x, x.sin()); x.subtract(1, alpha=2)
rsub: torch.rsub(x, 1); torch.rsub(x, ROW); torch.rsub(x, 2.0, alpha=3)
mul: x * 2; -3 * x; x * ROW; ROW * x; x * x; x * x * x; x.sin() * x.exp() * ROW; torch.mul(x, other=x); x * EACH
    x * drawn(1, 6); x * torch.tensor(0.3, dtype=dtype); x * drawn(4, 6); nn.Parameter(ROW) * x; x * True
multiply: x.multiply(x.sin())
div: x / 3; x / ROW; ROW / positive(x); x.sin() / positive(x); positive(x) / (positive(x) + 1); x / EACH
    torch.div(x, other=ROW)
divide: torch.divide(x, ROW)
true_divide: torch.true_divide(x, positive(x))
matmul: x @ MATRIX; torch.matmul(x, MATRIX); x.unflatten(1, (3, 2)) @ MATRIX[:2]
mm: torch.mm(x, MATRIX); x.mm(nn.Parameter(MATRIX))
__pow__: x.__pow__(3)
__matmul__: x.__matmul__(MATRIX)
linear: F.linear(x, MATRIX.T); F.linear(tokens, drawn(2, 4), drawn(2)); F.linear(input=x, weight=MATRIX.T)
    F.linear(picture, drawn(2, 4), bias=drawn(2))
softmax: F.softmax(x, 1); torch.softmax(tokens, -2); tokens.softmax(dim=2); torch.softmax(input=x, dim=1)
    F.softmax(picture, dim=1, dtype=dtype); nn.Softmax(-1)(tokens)
log_softmax: F.log_softmax(x, 1); torch.log_softmax(tokens, -2); picture.log_softmax(1)
batch_norm: F.batch_norm(picture, drawn(2), drawn(2).abs(), drawn(2), drawn(2))
    F.batch_norm(x, drawn(6), drawn(6).abs(), eps=0.1); F.batch_norm(tokens, drawn(3), drawn(3).abs(), bias=drawn(3))
    nn.BatchNorm3d(2, affine=False).double().eval()(volume)
    torch.batch_norm(picture, drawn(2), None, drawn(2), drawn(2).abs(), False, 0.1, 1e-3, False)
layer_norm: F.layer_norm(x, (6,)); F.layer_norm(tokens, (4,), drawn(4), drawn(4), 0.1)
    F.layer_norm(tokens, [3, 4], weight=drawn(3, 4)); F.layer_norm(picture.permute(0, 2, 3, 1), (2,), bias=drawn(2))
    torch.layer_norm(tokens, (4,), None, None, 1e-3, False)
group_norm: F.group_norm(picture, 2, drawn(2), drawn(2)); F.group_norm(picture, 1, eps=0.1); F.group_norm(tokens, 3)
    F.group_norm(x, 3, bias=drawn(6)); torch.group_norm(picture, 2, None, None, 1e-3, False)
dropout: F.dropout(x, 0.5, False); F.dropout(x, 0.0, True); F.dropout(x, training=False, inplace=True)
    torch.dropout(x, 0.5, False); torch.dropout(x, 0.5, train=False)
dropout1d: nn.Dropout1d().eval()(signal)
dropout2d: nn.Dropout2d().eval()(picture)
dropout3d: nn.Dropout3d().eval()(volume)
alpha_dropout: nn.AlphaDropout().eval()(x)
feature_alpha_dropout: nn.FeatureAlphaDropout().eval()(picture)
conv1d: F.conv1d(signal, drawn(4, 1, 3), groups=2, padding=1); F.conv1d(signal, drawn(3, 2, 3), drawn(3), 2, 2, 2)
    F.conv1d(signal, drawn(3, 2, 3), stride=[2], padding="valid")
    F.conv1d(input=signal, weight=drawn(3, 2, 3), padding="same")
conv2d: F.conv2d(picture, drawn(4, 1, 3, 2), None, 1, (1, 0), 1, 2)
    F.conv2d(picture, drawn(3, 2, 2, 3), drawn(3), (2, 1), (0, 3), (1, 2))
    F.conv2d(picture, drawn(3, 2, 3, 1), padding="same", dilation=2)
    torch.conv2d(picture, drawn(3, 2, 3, 3), bias=drawn(3), stride=3, padding=2)
conv3d: F.conv3d(volume, drawn(4, 1, 2, 2, 2), groups=2, padding=(1, 0, 1))
    F.conv3d(volume, drawn(1, 2, 2, 3, 1), drawn(1), stride=2, padding=1)
max_pool1d: F.max_pool1d(signal, 3, 2, 1, ceil_mode=True); F.max_pool1d(signal, 2, dilation=3)
    torch.max_pool1d(signal, 2)
max_pool2d: F.max_pool2d(picture, 2); F.max_pool2d(picture, (3, 2), (2, 1), (1, 0), ceil_mode=True)
    F.max_pool2d(F.relu(picture), 2, 1); F.max_pool2d(picture, kernel_size=2, stride=1, dilation=2)
    torch.max_pool2d(picture, 2, stride=[2, 2])
max_pool3d: F.max_pool3d(volume, 2, 1, 1)
adaptive_max_pool2d: F.adaptive_max_pool2d(picture, 2); F.adaptive_max_pool2d(picture, (None, 3))
avg_pool1d: F.avg_pool1d(signal, 3, 2, 1, ceil_mode=True, count_include_pad=False)
avg_pool2d: F.avg_pool2d(picture, 2); F.avg_pool2d(picture, 3, 2, 1, True, False)
    F.avg_pool2d(picture, (2, 3), divisor_override=5)
avg_pool3d: F.avg_pool3d(volume, 2, stride=1, padding=1, count_include_pad=False)
adaptive_avg_pool1d: F.adaptive_avg_pool1d(signal, 3)
adaptive_avg_pool2d: F.adaptive_avg_pool2d(picture, (4, None)); F.adaptive_avg_pool2d(picture, 1)
adaptive_avg_pool3d: F.adaptive_avg_pool3d(volume, 2)
flatten: picture.flatten(1); torch.flatten(picture, start_dim=-2); volume.flatten(1, 2)
    torch.flatten(input=tokens, start_dim=1)
reshape: tokens.reshape(4, -1); tokens.reshape((len(tokens), 2, 6)); torch.reshape(tokens, (-1, 12))
    tokens.transpose(1, 2).reshape(tokens.shape[0], 6, 2)
view: tokens.view(tokens.size(0), -1); tokens.view(torch.Size([4, 2, 6]))
unsqueeze: tokens.unsqueeze(1); torch.unsqueeze(x, dim=-1)
squeeze: x[:, None].squeeze(1); tokens.unsqueeze(-1).squeeze()
unflatten: x.unflatten(1, (2, -1)); nn.Unflatten(1, (3, 2))(x)
mean: tokens.mean(1); picture.mean((-1, -2), keepdim=True); torch.mean(picture, dim=(1, 2)); tokens.mean(axis=-1)
    x.mean(1, True)
sum: tokens.sum(-1); torch.sum(picture, [2, 3]); x.sum(1, keepdim=True); tokens.sum(1, dtype=dtype)
pad: F.pad(x, (1, 2)); F.pad(picture, (1, 0, 2, 1), value=3.0).sin(); F.pad(picture, (1, 2, 0, 1), "replicate")
    F.pad(picture, (-1, 1, 0, -2), "constant", -2.0).exp(); F.pad(picture, (1, 2, 2, 1), mode="reflect")
    F.pad(signal, (3, 2), mode="circular"); nn.ZeroPad2d(1)(picture); nn.ConstantPad1d(2, 1.5)(signal)
permute: tokens.permute(0, 2, 1); picture.permute((0, -1, 1, 2)); torch.permute(picture, (-4, 3, 1, 2))
    tokens.permute(dims=(0, 2, 1))
transpose: tokens.transpose(1, 2); torch.transpose(picture, -1, -3)
__getitem__: tokens[:, 1]; tokens[:, -1, ::2]; x[:, None]; x[:, ::2]; picture[:, :, 1:-1, ..., 0]; x[:, 4:5]
    torch.cat([x[:, 0:0], x], 1)
chunk: x.chunk(2, 1)[0] * x.chunk(2, 1)[1]; torch.chunk(tokens, 3, dim=-1)[1]
    torch.cat([part * i for i, part in enumerate(x.chunk(4, -1))], 1)
cat: torch.cat([x, x.sin()], 1); torch.cat((drawn(4, 2), x, x * x, drawn(4, 1)), dim=-1)
    torch.cat([tokens, tokens.exp()], -2); torch.cat(tensors=[picture, picture], dim=2)
    torch.cat([tokens, tokens], axis=1)
concat: torch.concat([x, x * 2], 1)
concatenate: torch.concatenate([x, x * 2], dim=1)
clone: x.clone(); torch.clone(picture, memory_format=torch.contiguous_format)
contiguous: tokens.transpose(1, 2).contiguous()
"""
"""For each rule, by the name of its function, calls that meet it."""


def in_sight(text, argument="x"):
    """The calls of a text, by what is written."""
    return calls(text, argument, **KNOWN).items()


def read_examples():
    """``{name: [(call, function, input)]}``; ``x`` is a vector, and what is called otherwise has the shape it says."""
    found, generated = (
        {},
        [f"{name}:{call.format(name)}" for call, names in GENERATED.items() for name in names.split()],
    )
    for entry in [*generated, *re.split(r"\n(?=\w)", CALLS.strip())]:
        name, _, text = entry.partition(":")
        for call in re.split(r"[;\n]", text):
            argument = next(shape for shape in SHAPES if re.search(rf"\b{shape}\b", call))
            own = found.setdefault(name, [])
            x = drawn(4, *SHAPES[argument], seed=len(own) + 1) * 1.5
            own += [(call, function, x) for call, function in in_sight(call, argument)]
    return found


EXAMPLES = read_examples()


def test_every_rule_has_an_example_that_meets_it(monkeypatch):
    met = set()

    def watched(name, rule):
        return lambda *args, **kwargs: met.add(name) or rule(*args, **kwargs)

    for name, rule in sorted(RULES.items()):
        assert name in EXAMPLES, f"{name}: a rule for what no torch function is called, or an example is missing here"
        # Which of two names an operator goes by depends on torch.
        same = [other for other, own in RULES.items() if own is rule or other == name.strip("_")]
        with monkeypatch.context() as patch:
            for other in same if name.startswith("__") else [name]:
                patch.setitem(RULES, other, watched(name, RULES[other]))
            for _, function, x in EXAMPLES[name]:
                jacobian(function, x)
    assert met == set(RULES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_rule_is_the_derivative_both_ways(name):
    for call, function, x in EXAMPLES[name]:
        with example(call):
            wanted = reference(function, x)
            assert error(jacobian(function, x, mode="layerwise"), wanted) < 1e-10
            assert_both_ways(jacobian(function, x, factored=True), function(x.clone()), matrices(wanted, x), x)
            if name != "hardsigmoid":  # torch has no second derivative of it
                assert_differentiable_again(function, x.clone().requires_grad_())


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
    found = []
    for j in (jacobian(function, x, mode="layerwise", create_graph=True), rows(function(x), x, keep=True)):
        total = (j * drawn(*j.shape, seed=5)).sum() + 0 * x.sum()
        found += torch.autograd.grad(total, x)
    assert error(*found) < 1e-9


# In place: later code sees the new value, earlier results keep the old one

IN_PLACE = """torch.relu_(h); torch.relu_(input=h); h.add_(h.exp(), alpha=2); h.add_(3); h.sub_(ROW); h.mul_(ROW)
    h.div_(ROW); h.pow_(3); h.clamp_(-0.3, 0.6); F.leaky_relu(h, 0.2, True); F.relu(h, inplace=True)
    F.elu(h, 1.0, True); F.hardtanh(h, -1, 1, True); F.silu(h, True); nn.ReLU6(inplace=True)(h); F.selu(h, True)
    F.celu(h, 1.0, True); nn.Mish(inplace=True)(h); F.dropout(h, 0.5, False, True)
    nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))(h); h.__iadd__(h.exp()); h.__isub__(1); h.__imul__(ROW)
    h.__itruediv__(2); h.__ipow__(2)"""
UNARY_IN_PLACE = [f"h.{name}_()" for name in ANYWHERE.split() if name != "asinh"]


def test_in_place_changes_what_later_code_sees():
    x = drawn(4, 6)
    for name, change in in_sight(";".join([IN_PLACE, *UNARY_IN_PLACE]), "h"):

        def function(x, change=change):
            h = x * 1.3
            same, before = h, h + 1
            out = change(h)
            return torch.cat([h, same * 2, before, out * h], 1)

        with example(name):
            assert error(jacobian(function, x, mode="layerwise"), reference(function, x)) < 1e-10


ALIASES = """F.dropout(h, 0.5, False); nn.Dropout().eval()(h); nn.Identity()(h); nn.Sequential()(h); h.contiguous()
    h.clone(); F.alpha_dropout(h, 0.5, False)"""
VIEWS = """h.view(len(h), 2, 3); h.flatten(1); h.reshape(len(h), 3, 2); h.unsqueeze(1); h.unsqueeze(1).squeeze(1)
    h.unflatten(1, (3, 2)); h[:, 1:4]; h.unflatten(1, (3, 2)).transpose(1, 2); h.permute(0, 1)"""


def test_in_place_on_an_alias_changes_both_names():
    for (name, alias), original in itertools.product(in_sight(ALIASES, "h"), (False, True)):

        def function(x, alias=alias, original=original):
            h = x * 1.3
            other = alias(h)
            (h if original else other).relu_()
            return h.sin() + other * 2

        with example(name, original):
            x = drawn(4, 6)
            assert error(jacobian(function, x), reference(function, x)) < 1e-10


def test_in_place_on_a_view_is_refused():
    for (name, view_of), original in itertools.product(in_sight(VIEWS, "h"), (False, True)):

        def function(x, view_of=view_of, original=original):
            h = x * 1.3
            view = view_of(h)
            (h if original else view).mul_(3)
            return torch.cat([h.sin(), view.flatten(1).exp()], 1)

        with example(name, original):
            assert_refused_and_right(function, drawn(4, 6), "in place on a view")


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

NUMBERS = torch.tensor([0.1, 0.7, 1.3, 3.0, -0.3, 0.9])
CONSTANTS = [torch.tensor([1, 2, 3, 4, 5, 7]), torch.tensor([True, False, True, True, False, True]), torch.tensor(3)]
CONSTANTS += [NUMBERS, torch.tensor(0.3), NUMBERS.bfloat16()]
WITH_CONSTANT = """x * c; (x + c) ** 2; x / (c + 1); positive(x) / c; c / positive(x); (c * 1 - x) ** 2
    torch.add(c, x, alpha=3) ** 2; torch.cat([x, c.expand(4, 6)], 1).exp()"""


@pytest.mark.parametrize("operation", [text.strip() for text in re.split(r"[;\n]", WITH_CONSTANT)])
def test_constants_of_another_type_cost_no_precision(operation):
    combine = eval(f"lambda x, c: {operation}", {"torch": torch, "positive": positive})
    for constant, last in itertools.product(CONSTANTS, (True, False)):
        if constant.dtype == torch.bool and operation.endswith("/ c"):
            continue

        def function(x, constant=constant, last=last):
            out = combine(x @ drawn(6, 6), constant)
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
    x, function = drawn(4, 6).float(), lambda x: x.softmax(1, torch.float64)
    assert error(jacobian(function, x), reference(function, x)) < 1e-6
    with contextlib.suppress(NoRuleError):
        assert jacobian(function, x, factored=True).value.dtype == torch.float64


ODD = """torch.div(x, 0.3, rounding_mode="floor") + x; 2**x; positive(x) ** x; positive(x) ** ROW; x.clamp(min=ROW)
    +x; (drawn(5, 6) @ x.mT).mT; x.unflatten(1, (3, 2)) @ ROW[:2]; x.unsqueeze(1) @ drawn(4, 6, 2)
    x.unflatten(1, (3, 2)) @ x.unflatten(1, (3, 2)).mT; x[:, :1] * ROW; x - x.mean(1, keepdim=True)
    x.exp() / x.exp().sum(1, keepdim=True); F.conv1d(x.unsqueeze(1), drawn(1, 1, 2), padding="same"); x[..., 1:]
    x[:]; x[:, [0, 2]]; x * (x > 0); torch.where(x > 0, x, x * x); x * x.view(torch.int64).bitwise_and(1)
    torch.stack([x, x * x], 1); x.split(2, 1)[1]; torch.cat([torch.empty(0, dtype=dtype), x], 1)
    F.max_pool1d(x.unsqueeze(1), 2, return_indices=True)[0]; nn.PReLU().double()(x); TURNED(x)
    torch.fft.fft(x).real; F.max_unpool1d(*F.max_pool1d(x.unsqueeze(1), 2, return_indices=True), 2)"""
COUPLED = """x.view(-1, 3); x.t().reshape(6, 6); x.view(2, 18).softmax(1).view(6, 6); x[0]; x[1:]; x - x.mean(0)
    x * x.sum(0, keepdim=True); x - x.sum(-2, keepdim=True); x - x.mean(); x.T @ x; x @ x.T; x.permute(1, 0)
    x.transpose(0, 1); F.softmax(x, 0); x.softmax(-2); x.log_softmax(0); x.sort(0)[0]; x.flip(0); x.roll(1, 0)
    x.cumsum(0); torch.cat(x.chunk(2)[::-1]); torch.cat([x, x * x])[:6]; x.flatten().view(6, 6).t()
    x.unsqueeze(0).softmax(1).squeeze(0); F.layer_norm(x, (6, 6)); F.conv1d(x, drawn(6, 6, 1))
    F.avg_pool2d(x.unsqueeze(0).unsqueeze(0), 3, 1, 1)[0, 0]
    F.max_pool2d(x.unsqueeze(1).transpose(0, 1), 3, 1, 1)[0]; F.pad(x, (0, 0, 1, 0))[:6]
    F.linear(x.T, drawn(6, 6)).T; F.batch_norm(x, None, None, training=True)"""


def test_what_no_rule_covers_is_refused_or_right():
    x = drawn(4, 6)
    for name, function in in_sight(ODD):
        with example(name):
            wanted = reference(function, x)
            assert error(jacobian(function, x), wanted) < 1e-10
            with contextlib.suppress(NoRuleError):
                assert error(jacobian(function, x, mode="layerwise"), wanted) < 1e-10


def test_layerwise_refuses_what_mixes_samples():
    """Six samples of six entries, so that no shape gives the mixture away."""
    for name, function in in_sight(COUPLED):
        with example(name), pytest.raises(JacobianError):
            jacobian(function, drawn(6, 6), mode="layerwise")
