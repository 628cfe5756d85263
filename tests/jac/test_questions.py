"""Whatever is asked of a network: its caller's context does not matter, it stays as it was, mistakes are refused."""

import copy
from functools import partial
from itertools import product

import pytest
import torch
from support.examples import calls, example
from support.jac_references import MODELS, MODULES, Function, build, error, inputs, module, refused
from torch import nn

from nas.jac import check, gram, jacobian, jacobian_det, ntk, slogdet
from nas.jac.errors import BudgetError

DOUBLE = {"dtype": torch.float64}
JACOBIANS = {mode: partial(jacobian, mode=mode) for mode in ("auto", "layerwise", "reverse", "forward")}
TAPED = {f"taped {mode}": partial(ask, create_graph=True) for mode, ask in JACOBIANS.items() if mode != "auto"}
GRAMS = {f"gram by {wrt}": lambda m, x, wrt=wrt, **o: gram(m, x, x, wrt, **o) for wrt in ("input", "parameters")}
GRAMS["gram of two"] = lambda m, x, **o: gram(m, x, x.flip(0), **o)
KERNELS = {f"ntk by {method}": partial(ntk, method=method) for method in ("layerwise", "contraction", "products")}
DETERMINANTS = {"det": jacobian_det, "det without fusing": partial(jacobian_det, fused=False)}
DETERMINANTS["slogdet"] = lambda m, x: slogdet(m, x).logabsdet
FACTORED = {"factored": lambda m, x, **o: jacobian(m, x, factored=True).dense(**o)}
BUDGETED = {**JACOBIANS, **FACTORED, **GRAMS, **KERNELS}
QUESTIONS = {**BUDGETED, **TAPED, **DETERMINANTS}
NEED_RULES = ("layerwise", "taped layerwise", "factored")
NEED_PARAMETERS = ("gram by parameters", *KERNELS)
NETWORKS = ["mlp", "pooling", "same-module-in-a-row", "quotients", "fft"]
IN_PLACE = ["residual-in-place", "in-place-first", "in-place", "in-place-without-rule"]

each_question = pytest.mark.parametrize("question", QUESTIONS)


def networks(question, names=NETWORKS):
    """The networks of the table that the question can be put to."""
    for name in names:
        case = MODELS[name]
        rules = case.layerwise or question not in NEED_RULES
        parameters = name in MODULES or question not in NEED_PARAMETERS
        square = name in ("same-module-in-a-row", "quotients", "in-place") or question not in DETERMINANTS
        if rules and parameters and square:
            yield name


# What does not matter


@each_question
def test_layouts_of_memory_do_not_matter(question):
    ask = QUESTIONS[question]
    for name in networks(question):
        model, x = build(name), inputs(name, 3)
        wanted, alike = ask(model, x), x[:1].expand(x.shape)
        with example(name):
            for other in (torch.stack([x, x + 1], -1)[..., 0], x.transpose(0, -1).contiguous().transpose(0, -1)):
                assert not other.is_contiguous()
                assert error(ask(model, other), wanted) < 1e-10
            if question != "taped forward":
                assert error(ask(model, alike), ask(model, alike.contiguous())) < 1e-10
            if x.dim() == 4 and name in MODULES:
                model.to(memory_format=torch.channels_last)
                assert error(ask(model, x.to(memory_format=torch.channels_last)), wanted) < 1e-10


@each_question
def test_the_context_of_the_caller_does_not_matter(question):
    ask = QUESTIONS[question]
    for name, around in product(networks(question), (torch.no_grad, torch.inference_mode, torch.enable_grad)):
        model, x, leaf = build(name), inputs(name, 3), inputs(name, 3).requires_grad_()
        wanted = ask(model, x)
        with around():
            answers = [ask(model, at) for at in (x, x * 1, leaf)]
        with example(name, around.__name__):
            for found in answers:
                assert error(found, wanted) < 1e-10
                taped = question in TAPED or (question in DETERMINANTS and around is torch.enable_grad)
                assert taped or not found.requires_grad
            if question in TAPED and question != "taped forward" and name == "mlp":
                assert torch.autograd.grad(answers[0].sum(), model[0].weight)[0].abs().max() > 0
        assert leaf.grad is None


# Nothing is changed, nothing is shared


@pytest.mark.parametrize("question", [*QUESTIONS, "check"])
def test_network_and_input_are_left_unchanged(question):
    ask = (QUESTIONS | {"check": lambda m, x: check(m, x, jacobian(m, x))})[question]
    for name in networks(question, [*NETWORKS, *IN_PLACE]):
        model, x = module(name), inputs(name, 3)
        for number, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(number % 2 == 0)
            parameter.grad = torch.ones_like(parameter)
        model.train(name == "mlp")
        before, x_before = copy.deepcopy(model), x.clone()
        ask(model, x)
        with example(name):
            assert torch.equal(x, x_before)
            assert not x.requires_grad
            assert x.grad is None
            assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
            assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
            for now, then in zip(model.parameters(), before.parameters(), strict=True):
                assert now.requires_grad == then.requires_grad
                assert torch.equal(now.grad, torch.ones_like(now))
            assert all(torch.equal(model.state_dict()[key], value) for key, value in before.state_dict().items())


CONSTANT = [
    nn.Linear(4, 4),
    nn.Identity(),
    nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 4)),
    nn.Sequential(nn.Dropout(), nn.Linear(4, 4)).eval(),
    nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 4))),
    nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 4, 4), nn.Flatten()),
    Function(lambda x, layer: (x + 1) @ layer.weight, layer=nn.Linear(4, 4)),
    Function(lambda x, layer: layer.bias * x, layer=nn.Linear(4, 4)),
]


@each_question
def test_the_result_may_be_written_into(question):
    """Neither a weight, nor x, nor another sample's result moves; where J is constant, sharing is tempting."""
    for model, options, batch in product(CONSTANT, ({}, {"chunk_bytes": 64}), (1, 5)):
        if (type(model) is nn.Identity and question in NEED_PARAMETERS) or (options and question not in JACOBIANS):
            continue
        own, x = copy.deepcopy(model).double(), inputs("linear", batch)
        before, x_before = copy.deepcopy(own.state_dict()), x.clone()
        with example(model, options, batch):
            found = QUESTIONS[question](own, x, **options).detach()
            other = found[-1].clone()
            found[0] = 7.0
            assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items())
            assert torch.equal(x, x_before)
            assert batch == 1 or torch.equal(found[-1], other)


# Mistakes


def assert_refused(match, question, model, at):
    asks = QUESTIONS | {"check": lambda m, x: check(m, x, torch.ones(5, 4, 4))}
    with example(match), refused(match):
        asks[question](model, at)


@pytest.mark.parametrize("question", [*QUESTIONS, "check"])
def test_what_is_no_batch_of_numbers_is_refused(question):
    for bad, says in (
        ([[1.0, 2.0]], r"list: must be a tensor.*pass torch\.as_tensor"),
        (torch.ones(5, 4, dtype=torch.int64), r"int64: .*no derivative by integers; pass x1?\.float\(\)"),
        (torch.ones(5, 4, dtype=torch.complex64), "complex64.*real floating-point"),
        (torch.ones(0, 4), r"\(0, 4\).*at least one sample"),
        (torch.ones(5, 0), r"\(5, 0\).*at least one entry"),
        (torch.tensor(1.0), r"\(\).*batch.*x\.unsqueeze\(0\)"),
    ):
        if "gram of two" not in question or (isinstance(bad, torch.Tensor) and bad.dim()):
            assert_refused(f"^x1?=.*{says}", question, nn.Linear(4, 4), bad)
    for number, model in product((float("nan"), float("inf"), -float("inf")), (nn.Linear(4, 4), lambda x: x.cumsum(1))):
        bad = torch.zeros(5, 4)
        bad[3, 2] = bad[4, 0] = number
        assert_refused(r"^x1?=.*2 entries.*first at \(3, 2\)", question, model, bad)


@pytest.mark.parametrize("question", [*QUESTIONS, "check"])
def test_what_cannot_be_called_is_refused(question):
    for bad, name in ((None, "NoneType"), (3, "int")):
        assert_refused(f"^model={name}: must be a module or a function", question, bad, torch.ones(5, 4))


LAYER = nn.Linear(4, 4, **DOUBLE)
NO_BATCH = "h.mean(); h.mean(0); h[0]; h[1:]; h.view(-1, 2); torch.cat([h, h]); (h, h); None; h.argmax(1); h.T @ h"
NO_BATCH += "; torch.fft.fft(h); torch.ones(3)"
NOISY = """F.dropout(h); F.dropout(h, p=0.2, training=True); F.dropout2d(h[:, :, None, None]).flatten(1)
    F.alpha_dropout(h, 0.5, True); F.feature_alpha_dropout(h, 0.5, True); torch.dropout(h, 0.5, True)
    torch.dropout(h, p=0.5, train=True); torch.feature_dropout(h, 0.5, True); F.rrelu(-h.abs(), training=True)
    F.batch_norm(h, None, None, training=True); F.batch_norm(h, None, None, None, None, True)
    torch.batch_norm(h, None, None, None, None, True, 0.1, 1e-5, False)"""
MIXED = "h - h.mean(0); h.softmax(0); h.cumsum(0); h.flip(0); (h.mT @ torch.ones(len(h), len(h), dtype=h.dtype)).mT"


@each_question
def test_functions_without_a_jacobian_are_refused(question):
    """Outputs that are no batch; noise and batch statistics; samples that are mixed."""
    for text, match in ((NO_BATCH, "^output="), (NOISY, r"model\.eval\(\)"), (MIXED, "mixes the samples")):
        for call, function in calls(text, "h").items():
            for first in (LAYER, lambda x: LAYER(x).cumsum(1)):
                with example(call), refused(None if question in NEED_RULES else match):
                    QUESTIONS[question](lambda x, f=function, first=first: f(first(x)), inputs("linear"))


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


TRAINING = [
    (lambda: nn.BatchNorm1d(4, **DOUBLE), "couples"),
    (lambda: nn.BatchNorm1d(4, track_running_stats=False, **DOUBLE), "couples"),
    (counts_no_more, "couples"),
    (lambda: nn.Dropout(0.3), "draws"),
    (lambda: nn.AlphaDropout(0.3), "draws"),
]


@each_question
def test_training_mode_is_refused_by_module(question):
    for (make, says), rule in product(TRAINING, (True, False)):
        model = Net(make(), rule).train()
        before, unknown = copy.deepcopy(model.state_dict()), question in NEED_RULES and not rule
        named = rf"part \({type(model.part).__name__}\).*{says}.*model\.eval\(\)"
        assert_refused(None if unknown else named, question, model, inputs("linear"))
        assert_refused(None if unknown else r"model\.eval\(\)", question, lambda x, m=model: m(x), inputs("linear"))
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), (model, rule)
        assert model.part.training


@each_question
def test_a_weight_of_nan_is_an_error(question):
    """Also one that a ReLU hides: where the value is NaN no slope means anything, finite or not."""
    acts = (nn.Tanh(), nn.ReLU()) if question in (*JACOBIANS, *FACTORED, *TAPED) else (nn.Tanh(),)
    for (where, entry), act in product([("0.weight", (1, 2)), ("0.bias", ...), ("2.weight", 1)], acts):
        model = nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 4)).double()
        with torch.no_grad():
            model.get_parameter(where)[entry] = float("nan")
        for network in (model, lambda x, model=model: model(x).flip(1)):
            match = "finite" if network is model or question not in NEED_RULES else None
            assert_refused(match, question, network, inputs("linear"))


@pytest.mark.parametrize("question", BUDGETED)
def test_a_refused_budget_says_what_is_enough(question):
    for name in networks(question, ("mlp", "bottleneck", "cnn-1d", "fft")):
        model, x, ask = build(name), inputs(name, 2), BUDGETED[question]
        with pytest.raises(BudgetError, match="chunk_bytes=1: is too small") as caught:
            ask(model, x, chunk_bytes=1)
        needed = caught.value.needed
        assert f"use chunk_bytes={needed} or more" in str(caught.value)
        for enough in (needed, 2 * needed, 1e6):  # people write 1e8
            assert error(ask(model, x, chunk_bytes=enough), ask(model, x)) < 1e-10, name
        for little in (needed - 1, 0, -1):
            with pytest.raises(BudgetError):
                ask(model, x, chunk_bytes=little)
