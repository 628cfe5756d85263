"""Under watch, BatchNorm normalises as the caller said, and remembers nothing of it."""

import copy
from itertools import product

import torch
import torch.nn.functional as F
from support.jac_references import refused
from torch import nn

from nas.jac.refuse import guarded, without_noise

X = torch.randn(6, 3)
MEAN, VAR = torch.full((3,), 2.0), torch.full((3,), 5.0)

NORMS = [
    lambda x, batch: F.batch_norm(x, MEAN, VAR, None, None, batch),
    lambda x, batch: F.batch_norm(input=x, running_mean=MEAN, running_var=VAR, training=batch),
    lambda x, batch: torch.batch_norm(x, None, None, MEAN, VAR, batch, 0.1, 1e-5, False),
]


def test_the_statistics_that_are_asked_for_are_demanded():
    for norm, batch in product(NORMS, (False, True)):
        expected = (X - (X.mean(0) if batch else MEAN)) / ((X.var(0, correction=0) if batch else VAR) + 1e-5).sqrt()
        found = guarded(lambda x, n=norm, batch=batch: n(x, batch), X, batch)(X)
        assert torch.allclose(found, expected, atol=1e-5)
        assert (MEAN == 2).all()
        assert (VAR == 5).all()
        with refused(rf"F\.batch_norm\(training={not batch}\)"):
            guarded(lambda x, n=norm, batch=batch: n(x, not batch), X, batch)(X)


def test_a_counter_is_put_back_after_success_and_refusal():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    before = copy.deepcopy(model.state_dict())
    guarded(model, X, batch=True)(X)
    with refused("couples"):
        guarded(lambda x: model(x), X)(X)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(guarded(lambda x: x + torch.tensor(1).add_(other=1), X)(X), X + 2)  # no counter of batches


def test_without_running_statistics_the_mode_does_not_count():
    norm = nn.BatchNorm1d(3, track_running_stats=False).eval()
    assert torch.allclose(guarded(norm, X, batch=True)(X), copy.deepcopy(norm).train()(X))
    with refused(r"model=model \(BatchNorm1d\): couples"):
        guarded(norm, X)


def test_noise_is_known_by_the_generators_state():
    assert torch.equal(without_noise(torch.sin, X), X.sin())
    for function in (lambda x: x * torch.rand(3), F.dropout, lambda x: x[torch.randperm(6)]):
        with refused("draws random numbers"):
            without_noise(function, X)
