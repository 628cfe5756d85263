"""What a caller can get wrong, each with one line that names the place and says what to do."""

import re

import pytest
import torch
import torch.nn.functional as F
from support.examples import example
from torch import Tensor, nn

from nas.jac.errors import JacobianError
from nas.jac.gram import gram
from nas.jac.ntk import ntk


def mlp(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), *more, nn.Linear(4, 2))


X = torch.ones(4, 3)
HOLED = X.clone()
HOLED[2, 1] = float("nan")
NORMED = mlp(nn.BatchNorm1d(4))
DROPPED = mlp(nn.Dropout(0.5))
MIXED = mlp(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
MIXED[3].eval()
PARAMETER = torch.ones(3, requires_grad=True)
LINEAR = nn.Linear(3, 2)
HUGE = nn.Linear(3, 2)
HUGE.weight.data.fill_(1e38)


class Rewritten(nn.Module):
    """Changes a layer's input after the call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = x * 2
        y = self.layer(z)
        z.mul_(3)
        return y


class Grouped(nn.Module):
    """Calls a layer as often as there are pairs of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(len(x)):
            x = torch.tanh(self.layer(x))
        return x


BAD = {
    "no tensor": (mlp(), [[1.0]], {}, "x1=list: .*torch.as_tensor"),
    "integers": (mlp(), torch.ones(4, 3, dtype=torch.long), {}, r"x1=torch.int64: .*pass x1.float\(\)"),
    "empty": (mlp(), torch.ones(0, 3), {}, r"x1=\(0, 3\): .*at least one sample"),
    "no batch": (mlp(), torch.tensor(1.0), {}, r"unsqueeze\(0\)"),
    "not finite": (mlp(), HOLED, {}, r"x1=nan: .*the first at \(2, 1\)"),
    "second not finite": (mlp(), X, {"x2": HOLED}, r"x2=nan: .*the first at \(2, 1\)"),
    "types": (mlp(), X, {"x2": X.double()}, r"x1, x2=torch.float32, torch.float64: must have the same dtype"),
    "shapes": (mlp(), X, {"x2": torch.ones(2, 5)}, r"x1, x2=\(4, 3\), \(2, 5\): must be batches of samples of one"),
    "output": (mlp(), X, {"output": "all"}, "output=all: must be one of full, trace, sum; use output='full'"),
    "method": (mlp(), X, {"method": "fast"}, "method=fast: must be one of auto, layerwise, contraction, products"),
    "statistics": (mlp(), X, {"statistics": "eval"}, "statistics=eval: must be one of running, batch"),
    "batchnorm": (NORMED, X, {}, r"model=2 \(BatchNorm1d\): .*call model.eval\(\) first"),
    "batchnorm in a function": (lambda x: NORMED(x), X, {}, r"model=F.batch_norm\(training=True\): .*model.eval\(\)"),
    "dropout": (DROPPED, X, {}, r"model=2 \(Dropout\): .*call model.eval\(\) first"),
    "dropout in a function": (lambda x: DROPPED(x), X, {}, r"draws random numbers.*call model.eval\(\) first"),
    "noise": (lambda x: LINEAR(x) * torch.rand(2), X, {}, "draws random numbers"),
    "samples mixed": (lambda x: LINEAR(x - x.mean(0)), X, {}, "mixes the samples of a batch"),
    "full with the batch": (NORMED, X, {"statistics": "batch"}, "output=full: .*use output='sum'"),
    "two batches": (NORMED, X, {"statistics": "batch", "output": "sum", "x2": X}, "x2=.*one batch"),
    "products with the batch": (
        NORMED,
        X,
        {"statistics": "batch", "output": "sum", "method": "products"},
        "method=products: is not offered with statistics='batch'",
    ),
    "eval with the batch": (
        mlp(nn.BatchNorm1d(4)).eval(), X, {"statistics": "batch", "output": "sum"}, r"model=2 .*call model.train\(\)"),
    "mixture": (MIXED, X, {"statistics": "batch", "output": "sum"}, r"model=3 \(BatchNorm1d\): .*model.train\(\)"),
    "mixture in a function": (
        lambda x: MIXED(x), X, {"statistics": "batch", "output": "sum"}, r"F.batch_norm\(training=False\)"),
    "mixture for single samples": (MIXED, X, {}, r"model=2 \(BatchNorm1d\): .*model.eval\(\)"),
    "dropout with the batch": (DROPPED, X, {"statistics": "batch", "output": "sum"}, r"model=2 .*\.eval\(\) on this"),
    "no batch comes out": (lambda x: LINEAR(x).sum(), X, {}, r"output=\(\): must have the batch first: 2 samples"),
    "integers come out": (lambda x: LINEAR(x).argmax(1), X, {}, "output=torch.int64: .*return scores"),
    "two come out": (lambda x: (LINEAR(x), x), X, {}, "output=tuple: must be one tensor"),
    "nothing comes out": (lambda x: LINEAR(x)[:, :0], X, {}, r"output=\(2, 0\): must have at least one entry"),
    "no parameter": (torch.tanh, X, {}, "depends on no parameter that requires grad"),
    "frozen": (mlp().requires_grad_(False), X, {}, r"call model.requires_grad_\(True\) first"),
    "detached": (lambda x: LINEAR(x).detach(), X, {}, "depends on no parameter"),
    "complex": (lambda x: x @ torch.ones(3, 2, dtype=torch.cfloat, requires_grad=True).abs(), X, {}, "must be real"),
    "overflow": (lambda x: HUGE(x).square(), X, {}, r"kernel=.*not finite, the first at \(0, 0, 0, 0\)"),
    "input rewritten": (Rewritten(), X[:1], {}, "model=linear: has changed its input in place"),
    "calls by batch": (Grouped(), X, {}, "was called 4 times in one run and 2 times in another"),
    "budget": (mlp(), X, {"chunk_bytes": 100}, r"chunk_bytes=100: is too small: one direction of one sample takes"),
    "budget of products": (mlp(), X, {"chunk_bytes": 100, "method": "products"}, "chunk_bytes=100: is too small"),
}  # fmt: skip


def test_bad_input_is_refused_in_one_line():
    for name, (model, x, kwargs, message) in BAD.items():
        with example(name):
            with pytest.raises(JacobianError, match=message) as error:
                ntk(model, x, **kwargs)
            assert "\n" not in str(error.value)
            assert re.fullmatch(r".+=.*: .+; .+", str(error.value))


def test_gram_wants_pairs():
    with pytest.raises(JacobianError, match=r"x2=\(2, 3\), .*: must be of .*shape of x1, .*samples are taken in pairs"):
        gram(mlp(), X, X[:2], "parameters")
    with pytest.raises(JacobianError, match=r"model\.eval"):
        gram(NORMED, X, X, "parameters")
    with pytest.raises(JacobianError, match=r"gram=.*not finite"):
        gram(lambda x: HUGE(x).square(), X, X, "parameters")


def test_a_refusal_leaves_counters_as_they_were():
    before = [buffer.clone() for buffer in NORMED.buffers()]
    for fn in (NORMED, lambda x: NORMED(x), lambda x: F.relu(NORMED(x))):
        with pytest.raises(JacobianError):
            ntk(fn, X)
    assert all(torch.equal(a, b) for a, b in zip(before, NORMED.buffers(), strict=True))
