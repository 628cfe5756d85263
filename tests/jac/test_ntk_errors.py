"""What a caller can get wrong, each with one line that names the place and says what to do."""

import torch
from support.examples import example
from support.jac_references import refused
from torch import nn

from nas.jac.gram import gram
from nas.jac.ntk import ntk


def mlp(*more):
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), *more, nn.Linear(4, 2))


X = torch.ones(4, 3)
HOLED = X.clone()
HOLED[2, 1] = float("nan")
NORMED = mlp(nn.BatchNorm1d(4))
DROPPED = mlp(nn.Dropout(0.5))
MIXED = mlp(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
MIXED[3].eval()
LINEAR, SQUARE = nn.Linear(3, 2), nn.Linear(3, 3)
HUGE = nn.Linear(3, 2)
HUGE.weight.data.fill_(1e38)


def rewritten(x):
    """Changes a layer's input after the call."""
    z = x * 2
    y = SQUARE(z)
    z.mul_(3)
    return y


def grouped(x):
    """Calls a layer as often as there are samples."""
    for _ in range(len(x)):
        x = torch.tanh(SQUARE(x))
    return x


BATCH = {"statistics": "batch", "output": "sum"}
BAD = {
    "second not finite": (mlp(), X, {"x2": HOLED}, r"x2=nan: .*the first at \(2, 1\)"),
    "types": (mlp(), X, {"x2": X.double()}, r"x1, x2=torch.float32, torch.float64: must have the same dtype"),
    "shapes": (mlp(), X, {"x2": torch.ones(2, 5)}, r"x1, x2=\(4, 3\), \(2, 5\): must be batches of samples of one"),
    "output": (mlp(), X, {"output": "all"}, "output=all: must be one of full, trace, sum; use output='full'"),
    "method": (mlp(), X, {"method": "fast"}, "method=fast: must be one of auto, layerwise, contraction, products"),
    "statistics": (mlp(), X, {"statistics": "eval"}, "statistics=eval: must be one of running, batch"),
    "full with the batch": (NORMED, X, {"statistics": "batch"}, "output=full: .*use output='sum'"),
    "two batches": (NORMED, X, {**BATCH, "x2": X}, "x2=.*one batch"),
    "products with the batch": (NORMED, X, {**BATCH, "method": "products"}, "method=products: is not offered with"),
    "eval with the batch": (mlp(nn.BatchNorm1d(4)).eval(), X, BATCH, r"model=2 .*call model.train\(\)"),
    "mixture": (MIXED, X, BATCH, r"model=3 \(BatchNorm1d\): .*model.train\(\)"),
    "mixture in a function": (lambda x: MIXED(x), X, BATCH, r"F.batch_norm\(training=False\)"),
    "mixture for single samples": (MIXED, X, {}, r"model=2 \(BatchNorm1d\): .*model.eval\(\)"),
    "dropout with the batch": (DROPPED, X, BATCH, r"model=2 .*\.eval\(\) on this"),
    "no batch comes out": (lambda x: LINEAR(x).sum(), X, {}, r"output=\(\): must have the batch first: 2 samples"),
    "integers come out": (lambda x: LINEAR(x).argmax(1), X, {}, "output=torch.int64: .*return scores"),
    "two come out": (lambda x: (LINEAR(x), x), X, {}, "output=tuple: must be one tensor"),
    "nothing comes out": (lambda x: LINEAR(x)[:, :0], X, {}, r"output=\(2, 0\): must have at least one entry"),
    "no parameter": (torch.tanh, X, {}, "depends on no parameter that requires grad"),
    "frozen": (mlp().requires_grad_(False), X, {}, r"call model.requires_grad_\(True\) first"),
    "detached": (lambda x: LINEAR(x).detach(), X, {}, "depends on no parameter"),
    "complex": (lambda x: x @ torch.ones(3, 2, dtype=torch.cfloat, requires_grad=True).abs(), X, {}, "must be real"),
    "overflow": (lambda x: HUGE(x).square(), X, {}, r"kernel=.*not finite, the first at \(0, 0, 0, 0\)"),
    "input rewritten": (rewritten, X[:1], {}, "model=linear: has changed its input in place"),
    "calls by batch": (grouped, X, {}, "was called 4 times in one run and 2 times in another"),
    "budget": (mlp(), X, {"chunk_bytes": 100}, r"chunk_bytes=100: is too small: one direction of one sample takes"),
}  # fmt: skip


def test_bad_input_is_refused_in_one_line():
    for name, (model, x, kwargs, message) in BAD.items():
        with example(name), refused(message):
            ntk(model, x, **kwargs)


def test_a_product_that_overflows_is_refused():
    with refused(r"gram=.*not finite"):
        gram(lambda x: HUGE(x).square(), X, X, "parameters")
