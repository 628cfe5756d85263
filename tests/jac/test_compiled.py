"""A compiled Jacobian is the eager one, and follows changes of the weights in place."""

import os
import shutil

import pytest
import torch
from support.jac_references import error, inputs
from torch import nn

from nas.jac import JacobianError, jacobian, jacobian_det
from nas.jac.compiled import compiled
from nas.jac.errors import NoRuleError

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="Inductor needs a C++ compiler on a processor"
)


@pytest.fixture(scope="module")
def network():
    """Everything that starts out uniform (weights of norms, running statistics) tempts a compiler to fold it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 3), nn.Softmax(1)]
        return nn.Sequential(*layers).double().eval()


@pytest.fixture(scope="module")
def fast(network):
    return compiled(network, inputs("linear"))


@pytest.fixture(scope="module")
def constant():
    """A network whose Jacobian is its weight, and the compiled Jacobian."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    return model, compiled(model, inputs("linear").unflatten(1, (2, 2)))


@needs_compiler
def test_compiled_equals_eager_at_any_input(network, fast):
    for seed in (0, 1):
        x = inputs("linear", seed=seed)
        found = fast(x)
        assert not found.requires_grad
        assert error(found, jacobian(network, x)) < 1e-10
        assert error(fast(x.clone().requires_grad_()), found) == 0
        with torch.inference_mode():
            assert error(fast(x), found) == 0
            assert error(fast(x * 1), found) == 0


@needs_compiler
def test_inputs_need_not_be_contiguous(network, fast):
    x = inputs("linear")
    apart, turned = torch.stack([x, x + 1], -1)[..., 0], x.t().contiguous().t()
    for other in (apart, turned, x[:1].expand(5, 4), torch.cat([torch.ones(1).double(), x.flatten()])[1:].view(5, 4)):
        assert error(fast(other), jacobian(network, other)) < 1e-10


@needs_compiler
def test_results_of_two_calls_are_apart(fast, constant):
    x, y = inputs("linear"), inputs("linear", seed=1)
    first = fast(x)
    kept = first.clone()
    fast(y)
    assert torch.equal(first, kept)


@needs_compiler
def test_the_result_may_be_written_into(constant):
    model, fast = constant
    x = inputs("linear").unflatten(1, (2, 2))
    weight, found = model[1].weight.detach().clone(), fast(x)
    other = found[1].clone()
    found[0] = 7.0
    assert torch.equal(model[1].weight, weight)
    assert torch.equal(found[1], other)
    assert error(fast(x), jacobian(model, x)) < 1e-12


@needs_compiler
def test_weights_and_buffers_changed_in_place_count(network, fast):
    x = inputs("linear")
    with torch.no_grad():
        for tensor in (*network.parameters(), network[1].running_mean, network[1].running_var):
            before = fast(x)
            tensor.mul_(1.5).add_(0.3)
            assert error(fast(x), jacobian(network, x)) < 1e-10
            assert not torch.equal(fast(x), before)


@needs_compiler
def test_an_input_of_another_kind_is_refused(fast):
    x = inputs("linear")
    for other, found in ((x[:3], r"\(3, 4\)"), (x.float(), "float32"), (torch.ones(5, 3).double(), r"\(5, 3\)")):
        with pytest.raises(JacobianError, match=f"{found}.*once for each kind"):
            fast(other)


@needs_compiler
def test_bad_numbers_are_refused_as_by_eager(network, fast):
    x = inputs("linear")
    x[2, 1] = float("nan")
    with pytest.raises(JacobianError, match=r"\(2, 1\)"):
        fast(x)
    kept = network[0].weight[0, 0].item()
    with torch.no_grad():
        network[0].weight[0, 0] = float("nan")
        with pytest.raises(JacobianError, match="Jacobian"):
            fast(inputs("linear"))
        network[0].weight[0, 0] = kept


@needs_compiler
def test_finite_numbers_with_infinite_sums_pass(constant):
    model, fast = constant
    x = torch.full((5, 2, 2), 1e308, dtype=torch.float64)
    assert error(fast(x), jacobian(model, x)) < 1e-12


@needs_compiler
def test_parameters_in_other_memory_are_refused(constant, determinant):
    for model, fast, x in ((*constant, inputs("linear").unflatten(1, (2, 2))), (*determinant, torch.ones(1, 2))):
        kept = model[1].weight.data
        model[1].weight.data = kept.clone()
        with pytest.raises(JacobianError, match="other memory"):
            fast(x)
        model[1].weight.data = kept
        fast(x)


@needs_compiler
def test_other_parameters_or_modules_are_refused(constant, determinant):
    for model, fast, x in ((*constant, inputs("linear").unflatten(1, (2, 2))), (*determinant, torch.ones(1, 2))):
        layer, weight = model[1], model[1].weight
        layer.weight = torch.nn.Parameter(weight.detach())
        with pytest.raises(JacobianError, match="not those that were compiled"):
            fast(x)
        layer.weight, model[1] = weight, torch.nn.Identity()
        with pytest.raises(JacobianError, match="not those that were compiled"):
            fast(x)
        model[1] = layer
        fast(x)


@needs_compiler
@pytest.mark.thorough
def test_a_constant_jacobian_of_one_sample_is_the_callers():
    model, x = nn.Linear(3, 2), torch.ones(1, 3)
    compiled(model, x)(x).zero_()
    assert model.weight.abs().min() > 0


def test_refusals_come_before_anything_is_compiled():
    x = inputs("linear")
    with pytest.raises(NoRuleError, match="cumsum"):
        compiled(lambda x: x.cumsum(1), x)
    with pytest.raises(JacobianError, match=r"model\.eval\(\)"):
        compiled(nn.Sequential(nn.Linear(4, 4), nn.Dropout()).double(), x)
    with pytest.raises(JacobianError, match="integers"):
        compiled(nn.Linear(4, 4), torch.ones(5, 4).long())
    with pytest.raises(JacobianError, match="jacobian or determinant"):
        compiled(nn.Linear(4, 4), torch.ones(5, 4), of="trace")
    for model, width in ((nn.Sequential(nn.Linear(2, 17), nn.Linear(17, 2)), 2), (nn.Linear(4, 4), 4), (torch.tanh, 2)):
        with pytest.raises(JacobianError, match=r"must be a chain.*use jacobian_det"):
            compiled(model, torch.ones(5, width), of="determinant")
    with pytest.raises(JacobianError, match="must be square"):
        compiled(nn.Linear(2, 3), torch.ones(5, 2), of="determinant")


ACTIVATIONS = [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SiLU(), nn.Softsign()]
ACTIVATIONS += [nn.GELU(), nn.GELU("tanh"), nn.Softplus(2.0, 3.0)]


def chain(*layers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(*layer) if isinstance(layer, tuple) else layer for layer in layers))


def batch(size, width):
    """A sample of zeros, where activations have their kinks, and others."""
    x = 3 * torch.randn(size, width, generator=torch.Generator().manual_seed(0)).double()
    return x.index_fill_(0, torch.tensor([0]), 0.0).requires_grad_()


def trained(function, model, x):
    """Determinants, and the gradient of a loss by x and the parameters."""
    det = function(x)
    loss = ((det - 1) * torch.linspace(-1, 2, len(x))).square().mean()
    gradients = torch.autograd.grad(loss, [x, *model.parameters()], allow_unused=True)
    return [det, *(g for g in gradients if g is not None)]


@needs_compiler
def test_a_compiled_determinant_is_the_eager_one():
    """All activations, 1 to 3 inputs, and batches that are no multiple of the processor's vectors."""
    three = chain((3, 4, False), *ACTIVATIONS[:3], (4, 3))
    two = chain(*ACTIVATIONS[3:5], (2, 3), *ACTIVATIONS[5:8], nn.Identity(), chain((3, 2, False)))
    for model in (three, two, chain((1, 5), *ACTIVATIONS[8:], (5, 1), nn.Tanh())):
        width = next(iter(model.parameters())).shape[1]
        fast = compiled(model.double(), batch(2, width), of="determinant")
        for size in (1, 21):
            x = batch(size, width)
            ours, eager = trained(fast, model, x), trained(lambda x, model=model: jacobian_det(model, x), model, x)
            assert len(ours) == len(eager)
            assert max(map(error, ours, eager)) < 1e-10


@pytest.fixture(scope="module")
def determinant():
    """A chain in float32, and its compiled determinant."""
    model = chain(nn.Tanh(), (2, 5), nn.Tanh(), (5, 2))
    return model, compiled(model, torch.ones(4, 2), of="determinant")


@needs_compiler
def test_a_determinant_is_trained_with(determinant):
    """As with the eager one: sums of it, inputs that need no gradient or are not contiguous, weights that change."""
    model, fast = determinant
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        x = batch(7 + step, 4).detach().float()[:, ::2]
        eager = torch.autograd.grad(jacobian_det(model, x).sum(), list(model.parameters())[:3])
        optimizer.zero_grad()
        fast(x).sum().backward()
        for parameter, gradient in zip(model.parameters(), eager, strict=False):
            assert error(parameter.grad, gradient) < 1e-5
        assert model[3].bias.grad is None
        optimizer.step()
    with torch.inference_mode():
        assert error(fast(x), jacobian_det(model, x)) < 1e-6


@needs_compiler
def test_what_a_determinant_cannot_do_it_refuses(determinant):
    model, fast = determinant
    for x, match in (
        (torch.full((3, 2), float("nan")), r"\(0, 0\)"),
        (torch.full((3, 2), float("inf")), r"\(0, 0\)"),
        (torch.ones(0, 2), "at least one sample"),
        (torch.ones(3, 3), "once for each kind"),
        (torch.ones(3, 2).double(), "once for each kind"),
    ):
        with pytest.raises(JacobianError, match=match):
            fast(x)
    x = torch.ones(3, 2, requires_grad=True)
    with pytest.raises(JacobianError, match="first derivatives only"):
        torch.autograd.grad(fast(x).sum(), x, create_graph=True)
    late = fast(x).sum()
    with torch.no_grad():
        model[1].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()
    with torch.no_grad():
        model[1].weight[0, 0] = float("inf")
    with pytest.raises(JacobianError, match="the determinant has 3 entries"):
        fast(x)
