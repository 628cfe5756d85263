"""The cases of ``suite=jac``: a baseline, ours, and the alternatives that people write, all on the same numbers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from nas.jac import compiled, gram, jacobian, jacobian_det, ntk
from nas.seeds import weights

Call = Callable[[], object]
BASELINE, OURS = "baseline", "ours"
TURN = 20
"""Timed calls in a turn where one takes a fraction of a millisecond."""
Calls = dict[str, Call]
"""By name: ``BASELINE``, ``OURS`` and the competitors."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers, the same in every process."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def square_net() -> nn.Sequential:
    """The network of the determinant's case: 2 inputs, two hidden layers of 5 with tanh, 2 linear outputs."""
    with weights(0):
        return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))


def layer_by_layer_det(net: nn.Sequential, x: Tensor) -> Tensor:
    """``(B,)``: value and derivative carried forward together, sample by sample, through autograd, then torch.det."""
    derivative = torch.eye(x.shape[1]).expand(len(x), -1, -1)
    for layer in net:
        x = layer(x)
        linear = isinstance(layer, nn.Linear)
        derivative = layer.weight @ derivative if linear else (1 - x * x)[:, :, None] * derivative  # type: ignore[operator]
    return torch.det(derivative)


def step(net: nn.Module, loss: Callable[[], Tensor]) -> Call:
    """A step of a loss, forward and backward."""

    def run() -> None:
        for parameter in net.parameters():
            parameter.grad = None
        loss().backward()

    return run


def determinant(batch: int) -> Calls:
    """A step of the determinant's loss next to one of the mean squared error."""
    net, x, y = square_net(), normal(batch, 2), normal(batch, 2, seed=1)
    return {
        BASELINE: step(net, lambda: F.mse_loss(net(x), y)),
        OURS: step(net, lambda: (jacobian_det(net, x) - 1).square().mean()),
        "layer by layer, torch.det": step(net, lambda: (layer_by_layer_det(net, x) - 1).square().mean()),
    }


def compiled_determinant(batch: int) -> Call:
    """A step of the determinant's loss, compiled for this network."""
    net, x = square_net(), normal(batch, 2)
    call = compiled(net, x, of="determinant")
    return step(net, lambda: (call(x) - 1).square().mean())


def classifier() -> nn.Sequential:
    """The network of the Jacobian's case: affine(500, 100), ReLU, affine(100, 10), softmax."""
    with weights(0):
        net = nn.Sequential(nn.Linear(500, 100), nn.ReLU(), nn.Linear(100, 10), nn.Softmax(-1))
    return net.requires_grad_(False)


def by_hand(model: nn.Sequential, x: Tensor) -> Call:
    """The Jacobian of one sample in NumPy, written by hand for this network."""
    w1, b1, w2, b2 = (parameter.numpy() for parameter in model.parameters())
    point = x[0].numpy()

    def run() -> np.ndarray:
        hidden = w1 @ point + b1
        scores = w2 @ np.maximum(hidden, 0) + b2
        p = np.exp(scores - scores.max())
        p /= p.sum()
        return (np.diag(p) - np.outer(p, p)) @ (w2 * (hidden > 0)) @ w1

    return run


def one_sample() -> Calls:
    """The whole Jacobian at one point, ``(1, 10, 500)``."""
    model, x = classifier(), normal(1, 500)
    reverse = jacrev(model)
    return {
        BASELINE: lambda: reverse(x[0]),
        OURS: lambda: jacobian(model, x),
        "NumPy by hand": by_hand(model, x),
    }


def has_compiler() -> bool:
    """Whether Inductor finds a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def compiled_sample() -> Call:
    """The same, compiled for this network and this shape."""
    model, x = classifier(), normal(1, 500)
    call = compiled(model, x)
    return lambda: call(x)


def first_calls() -> tuple[Calls, Call]:
    """A call that makes a plan and one that replays it, next to one without a plan; and what comes before each turn.

    The unexpanded Jacobian never has a plan. Each call that makes one gets a new model, of the same layers.
    """
    model, x = classifier(), normal(1, 500)
    copies, unused = list[nn.Sequential](), list[nn.Sequential]()

    def before() -> None:
        copies[:] = unused[:] = [nn.Sequential(*model) for _ in range(TURN + 1)]  # copies live until the turn is over

    calls: Calls = {
        BASELINE: lambda: jacobian(model, x, factored=True).dense(),
        OURS: lambda: jacobian(unused.pop(), x),
        "replayed": lambda: jacobian(model, x),
    }
    return calls, before


def many_samples(batch: int) -> Calls:
    """The Jacobians of a batch, compared with the one matrix product that all of them need."""
    model, x = classifier(), normal(batch, 500)
    rows, weight = normal(batch * 10, 100, seed=1), normal(100, 500, seed=2)
    reverse = vmap(jacrev(model))
    return {BASELINE: lambda: rows @ weight, OURS: lambda: jacobian(model, x), "vmap(jacrev)": lambda: reverse(x)}


def products(inputs: int, outputs: int) -> Calls:
    """``J(x1) @ J(x2).T`` of ``tanh(tanh(x) @ W.T)``, batch 1, next to a vmapped jvp of a vjp."""
    x1, x2 = normal(1, inputs), normal(1, inputs, seed=1)
    weight = normal(outputs, inputs, seed=2) / inputs**0.5
    unit = torch.eye(outputs)

    def fn(x: Tensor) -> Tensor:
        return torch.tanh(torch.tanh(x) @ weight.mT)

    def reference() -> Tensor:
        pull = vjp(fn, x2[0])[1]
        return vmap(lambda row: jvp(fn, (x1[0],), pull(row))[1])(unit).mT

    return {BASELINE: reference, OURS: lambda: gram(fn, x1, x2)}


@dataclass(frozen=True)
class Net:
    """A network and the shape of its input."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def make(self, batch: int) -> tuple[nn.Module, Tensor]:
        """The network and a batch for it, the same ones in every process."""
        with weights(0):
            return self.build(), normal(batch, *self.shape)


def _cnn() -> nn.Module:
    parts = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(32 * 26 * 26, 10))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


CNN = Net(_cnn, (3, 32, 32))
"""The network of PyTorch's tutorial on neural tangent kernels."""
MLP = Net(_mlp, (784,))


def contraction(model: nn.Module, x: Tensor) -> Tensor:
    """The kernel ``(B, B, M, M)`` as that tutorial computes it: all Jacobians, then a product for each parameter."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def single(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        result: Tensor = functional_call(model, parameters, (sample.unsqueeze(0),)).squeeze(0)
        return result

    jacobians = vmap(jacrev(single), (None, 0))(parameters, x)
    flat = [one.flatten(2) for one in jacobians.values()]
    return torch.stack([torch.einsum("Naf,Mbf->NMab", one, one) for one in flat]).sum(0)


def gradients_of_sums(model: nn.Module, x: Tensor) -> Tensor:
    """The kernel ``(B, B)`` of summed outputs, from one gradient a sample, which is enough for sums."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def summed(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        result: Tensor = functional_call(model, parameters, (sample.unsqueeze(0),)).sum()
        return result

    gradients = vmap(grad(summed), (None, 0))(parameters, x)
    flat = torch.cat([one.flatten(1) for one in gradients.values()], dim=1)
    return flat @ flat.mT


def kernel(net: Net, batch: int) -> Calls:
    """The empirical neural tangent kernel of a batch with itself, ``(B, B, M, M)``."""
    model, x = net.make(batch)
    return {BASELINE: lambda: contraction(model, x), OURS: lambda: ntk(model, x)}


def sum_kernel(net: Net, batch: int) -> Calls:
    """The kernel of summed outputs, ``(B, B)``, next to the contraction that gives all outputs."""
    model, x = net.make(batch)
    return {
        BASELINE: lambda: contraction(model, x),
        OURS: lambda: ntk(model, x, output="sum"),
        "vmap(grad) of the sum, one product": lambda: gradients_of_sums(model, x),
    }
