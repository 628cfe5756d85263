"""The kernel in which a batch normalises itself."""

from functools import partial
from itertools import product

import pytest
import torch
from support import ntk_references as reference
from support.jac_references import refused
from torch import nn

from nas.jac.errors import BudgetError
from nas.jac.ntk import ntk

EXACT = 1e-10


class Network(nn.Module):
    """Convolutions with BatchNorm, as searched ones are."""

    def __init__(self, momentum=0.1, track=True):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=momentum), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4, track_running_stats=track))
        self.head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


def network(**kwargs):
    model, x = Network(**kwargs).double(), torch.randn(6, 2, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        model(x + 1)  # running statistics of their own, and a counter at 1
    return model, x


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


batch_ntk = partial(ntk, output="sum", statistics="batch")


@pytest.mark.parametrize("variant", [{}, {"momentum": None}, {"track": False}, {"momentum": None, "track": False}])
def test_batch_statistics_equal_the_reference_without_trace(variant):
    model, x = network(**variant)
    before, expected = state(model), reference.batch_kernel(model, model.parameters(), x)
    model.load_state_dict(before)
    for method, fn in product(("layerwise", "contraction"), (model, lambda x: model(x))):
        kernel = batch_ntk(fn, x, method=method)
        assert same(before, state(model))
        assert reference.error(kernel, expected) < EXACT
        assert torch.allclose(kernel, kernel.T, rtol=0, atol=1e-12 * float(kernel.max()))
        assert not kernel.requires_grad
    with pytest.raises(BudgetError, match="takes") as caught:
        batch_ntk(model, x, chunk_bytes=1)
    for factor in (1, 2, 4):
        assert reference.error(batch_ntk(model, x, chunk_bytes=factor * caught.value.needed), expected) < EXACT


def test_running_and_batch_statistics_give_different_matrices():
    model, x = network()
    coupled, separate = batch_ntk(model, x), ntk(model.eval(), x, output="sum")
    assert reference.error(separate, reference.kernel(model, model.parameters(), x, output="sum")) < EXACT
    assert reference.error(separate, coupled) > 0.1
    model, shape = reference.build("pooling")  # without BatchNorm
    x = torch.randn(4, *shape, dtype=torch.float64)
    assert reference.error(batch_ntk(model.train(), x), ntk(model, x, output="sum")) < EXACT


class Failing(nn.Module):
    """A BatchNorm, and an error after it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3).double()

    def forward(self, x):
        self.norm(x)
        raise KeyError("after the BatchNorm")


def test_an_error_leaves_statistics_as_they_were():
    model, x = Failing(), torch.randn(4, 3, dtype=torch.float64)
    before = state(model)
    for fn in (model, lambda x: model(x)):
        with pytest.raises(KeyError):
            batch_ntk(fn, x)
        assert same(before, state(model))
        with refused(r"model\.eval"):
            ntk(fn, x)
        assert same(before, state(model))
