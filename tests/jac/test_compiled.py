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


ACTIVATIONS = [nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SiLU(), nn.Softsign()]
ACTIVATIONS += [nn.GELU(), nn.GELU("tanh"), nn.Softplus(2.0, 3.0)]


def chain(*layers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(*layer) if isinstance(layer, tuple) else layer for layer in layers)).double()


def batch(size, width):
    """With zeros, at which activations have their kinks."""
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
    """All activations in chains of 3, 2 and 1 features; batches that are no multiple of the processor's vectors."""
    bare = chain((3, 4), *ACTIVATIONS[:4], (4, 3))
    others = [nn.Sequential(ACTIVATIONS[4], nn.Linear(2, 3), *ACTIVATIONS[5:8], nn.Identity(), nn.Linear(3, 2, False))]
    for model in (bare, others[0].double(), chain((1, 5), *ACTIVATIONS[8:], (5, 1), nn.Tanh())):
        width = next(iter(model.parameters())).shape[1]
        fast = compiled(model, batch(2, width), of="determinant")
        for size in (1, 21):
            x = batch(size, width)
            ours, eager = trained(fast, model, x), trained(lambda x, model=model: jacobian_det(model, x), model, x)
            assert len(ours) == len(eager)
            assert max(map(error, ours, eager)) < 1e-10
