"""A compiled Jacobian is the eager one, and follows changes of the weights in place."""

import os
import shutil

import pytest
import torch
from support.jac_references import error, inputs, refused
from torch import nn

from nas.jac import jacobian, jacobian_det
from nas.jac.compiled import compiled

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="Inductor needs a C++ compiler on a processor"
)


@pytest.fixture(scope="module")
def jacobians():
    """Networks and their compiled Jacobians, for 5 samples of 4 features, and of 2 x 2.

    Everything that starts out uniform (weights of norms, running statistics) tempts a compiler to fold it; the Jacobian
    of the second is its weight, which tempts to hand that out.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 3), nn.Softmax(1)]
        models = [nn.Sequential(*layers).double().eval(), nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()]
    x = inputs("linear")
    return [(models[0], compiled(models[0], x)), (models[1], compiled(models[1], x.unflatten(1, (2, 2))))]


@needs_compiler
def test_compiled_equals_eager_at_any_input(jacobians):
    model, fast = jacobians[0]
    for x in (inputs("linear"), inputs("linear", seed=1)):
        found = fast(x)
        assert not found.requires_grad
        assert error(found, jacobian(model, x)) < 1e-10
        assert error(fast(x.clone().requires_grad_()), found) == 0
        with torch.inference_mode():
            assert error(fast(x), found) == 0
            assert error(fast(x * 1), found) == 0
        apart, turned = torch.stack([x, x + 1], -1)[..., 0], x.t().contiguous().t()
        shifted = torch.cat([torch.ones(1).double(), x.flatten()])[1:].view(5, 4)
        for other in (apart, turned, x[:1].expand(5, 4), shifted):
            assert error(fast(other), jacobian(model, other)) < 1e-10


@needs_compiler
def test_results_may_be_written_into(jacobians):
    for (model, fast), shape in zip(jacobians, ((5, 4), (5, 2, 2)), strict=True):
        x, y = (inputs("linear", seed=seed).view(shape) for seed in (0, 1))
        weights, first = [p.detach().clone() for p in model.parameters()], fast(x)
        kept = first.clone()
        fast(y)
        assert torch.equal(first, kept)
        first[0] = 7.0
        assert torch.equal(first[1], kept[1])
        assert all(map(torch.equal, weights, model.parameters()))
        assert error(fast(x), jacobian(model, x)) < 1e-10


@needs_compiler
def test_weights_and_buffers_changed_in_place_count(jacobians):
    (model, fast), x = jacobians[0], inputs("linear")
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean, model[1].running_var):
            before = fast(x)
            tensor.mul_(1.5).add_(0.3)
            assert error(fast(x), jacobian(model, x)) < 1e-10
            assert not torch.equal(fast(x), before)


@needs_compiler
def test_other_inputs_and_bad_numbers_are_refused(jacobians):
    (model, fast), x = jacobians[0], inputs("linear")
    for other, found in ((x[:3], r"\(3, 4\)"), (x.float(), "float32"), (torch.ones(5, 3).double(), r"\(5, 3\)")):
        with refused(f"{found}.*once for each kind"):
            fast(other)
    x[2, 1] = float("nan")
    with refused(r"\(2, 1\)"):
        fast(x)
    kept = model[0].weight[0, 0].item()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
        with refused("Jacobian"):
            fast(inputs("linear"))
        model[0].weight[0, 0] = kept
    (model, fast), x = jacobians[1], torch.full((5, 2, 2), 1e308, dtype=torch.float64)  # whose sum is infinite
    assert error(fast(x), jacobian(model, x)) < 1e-12


@needs_compiler
def test_other_parameters_or_modules_are_refused(jacobians, determinant):
    for model, fast, x in ((*jacobians[1], inputs("linear").unflatten(1, (2, 2))), (*determinant, torch.ones(1, 2))):
        layer, weight, memory = model[1], model[1].weight, model[1].weight.data
        layer.weight.data = memory.clone()
        with refused("other memory"):
            fast(x)
        layer.weight.data = memory
        fast(x)
        layer.weight = nn.Parameter(weight.detach())
        with refused("not those that were compiled"):
            fast(x)
        layer.weight, model[1] = weight, nn.Identity()
        with refused("not those that were compiled"):
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
    x, linear = inputs("linear"), nn.Linear(4, 4)
    for model, at, says in (
        (lambda x: x.cumsum(1), x, "cumsum"),
        (nn.Sequential(linear, nn.Dropout()).double(), x, r"model\.eval\(\)"),
        (linear, torch.ones(5, 4).long(), "integers"),
    ):
        with refused(says):
            compiled(model, at)
    with refused("jacobian or determinant"):
        compiled(linear, torch.ones(5, 4), of="trace")
    for model, width in ((nn.Sequential(nn.Linear(2, 17), nn.Linear(17, 2)), 2), (linear.float(), 4), (torch.tanh, 2)):
        with refused(r"must be a chain.*use jacobian_det"):
            compiled(model, torch.ones(5, width), of="determinant")
    with refused("must be square"):
        compiled(nn.Linear(2, 3), torch.ones(5, 2), of="determinant")


ACTIVATIONS = [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SiLU(), nn.Softsign()]
ACTIVATIONS += [nn.GELU(), nn.GELU("tanh"), nn.Softplus(2.0, 3.0)]


def chain(*layers):
    return nn.Sequential(*(nn.Linear(*layer) if isinstance(layer, tuple) else layer for layer in layers))


def batch(size, width):
    """A sample of zeros, where activations have their kinks, and others."""
    return torch.cat([torch.zeros(1, width), 3 * torch.randn(size - 1, width)]).double().requires_grad_()


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
            ours, eager = (
                trained(fast, model, x),
                trained(lambda x, model=model: jacobian_det(model, x, fused=False), model, x),
            )
            assert len(ours) == len(eager)
            assert max(map(error, ours, eager)) < 1e-10


@pytest.fixture(scope="module")
def determinant():
    """A chain in float32, and its compiled determinant."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # it is made before the tests' own seed is set
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
        with refused(match):
            fast(x)
    x = torch.ones(3, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(fast(x).sum(), x, create_graph=True)
    with refused("first derivatives only"):
        gradient.sum().backward()
    late = fast(x).sum()
    with torch.no_grad():
        model[1].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()
    with torch.no_grad():
        model[1].weight[0, 0] = float("inf")
    with refused("the determinant has 3 entries"):
        fast(x)
