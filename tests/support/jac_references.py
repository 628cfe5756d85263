"""Slow, obvious Jacobians by a loop of torch.autograd.grad, and the networks on which the fast ones are compared."""

import copy
import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nas.jac import JacobianError
from nas.nn import BlockLinear, GatedConcat, GatedSum

Network = Callable[[Tensor], Tensor]


# References


def rows(y: Tensor, x: Tensor, keep: bool = False) -> Tensor:
    """``(B, *out, *in)`` from a tape: one backward pass an output; an output of one sample ignores the others."""
    flat = y.reshape(len(y), -1)
    if not flat.requires_grad:
        return x.new_zeros(*y.shape, *x.shape[1:])
    parts = [
        torch.autograd.grad(flat[:, m].sum(), x, retain_graph=True, create_graph=keep, materialize_grads=True)[0]
        for m in range(flat.shape[1])
    ]
    return torch.stack(parts, 1).reshape(*y.shape, *x.shape[1:])


def jacobian(model: Network, x: Tensor) -> Tensor:
    """``(B, *out, *in)``; ``model`` may work in place on what it is given."""
    x = x.detach().clone().requires_grad_()
    return rows(model(x.clone()), x)


def taped_jacobian(model: Network, x: Tensor) -> Tensor:
    """The same with a tape to the parameters and to ``x``, which requires grad."""
    return rows(model(x.clone()), x, keep=True)


def functional_jacobian(model: Network, x: Tensor) -> Tensor:
    """The second opinion: torch.func, one sample at a time under vmap."""
    return torch.func.vmap(torch.func.jacrev(lambda sample: model(sample.clone().unsqueeze(0)).squeeze(0)))(x)


def matrices(jacobian: Tensor, x: Tensor) -> Tensor:
    """``(B, M, N)`` from ``(B, *out, *in)``."""
    return jacobian.reshape(len(x), -1, x[0].numel())


def gram(model: Network, x1: Tensor, x2: Tensor) -> Tensor:
    """``(B, M, M)``."""
    return torch.einsum("bmn,bkn->bmk", matrices(jacobian(model, x1), x1), matrices(jacobian(model, x2), x2))


def error(ours: Tensor, reference: Tensor) -> float:
    """The largest difference, relative to the largest entry; shapes must be equal."""
    assert ours.shape == reference.shape, f"{tuple(ours.shape)} is not {tuple(reference.shape)}"
    largest = reference.detach().abs().max().item()
    return (ours.detach().to(reference.dtype) - reference.detach()).abs().max().item() / (largest or 1.0)


@contextmanager
def refused(match: str | None = None) -> Iterator[None]:
    """What is done inside is refused in one line: what, its value, the rule, the remedy."""
    with pytest.raises(JacobianError, match=match) as caught:
        yield
    assert re.fullmatch(r".+=.*: .+; .+", str(caught.value))


# Random chains


@st.composite
def chains(draw: Any, between: list[nn.Module], linears: int = 0, plain: bool = False) -> tuple[nn.Module, list[int]]:
    """Linears, at least so many, what may stand between them, and a batch's shape; ``plain``: square, of vectors."""
    widths, layers = draw(st.lists(st.integers(1, 6), min_size=linears + 1, max_size=4)), []
    some, sizes = st.lists(st.sampled_from(between), max_size=2), st.integers(1, 3)
    for into, out in pairwise([*widths, widths[0]] if plain else widths):
        layers += [*draw(some), nn.Linear(into, out, bias=draw(st.booleans()), dtype=torch.float64)]
    layers += draw(some)
    if plain:
        return nn.Sequential(*layers), [draw(sizes), widths[0]]
    layers += draw(st.lists(st.just(nn.Flatten()), max_size=1))
    return nn.Sequential(*layers), [draw(sizes), *draw(st.lists(sizes, max_size=2)), widths[0]]


# What is counted in place of time and memory


class Counted(TorchDispatchMode):
    """Counts, while it is active, multiply-adds of matrix products and the bytes of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds, self.largest_bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        old = {part.untyped_storage()._cdata for part in args if isinstance(part, Tensor)}
        for part in out if isinstance(out, (list, tuple)) else [out]:
            made = isinstance(part, Tensor) and not part._is_zerotensor() and part.untyped_storage()._cdata not in old
            self.largest_bytes = max(self.largest_bytes, part.untyped_storage().nbytes() if made else 0)
        name = func._schema.name.removeprefix("aten::")
        if name in ("mm", "bmm", "mv", "addmm", "baddbmm", "addmv"):
            left = args[1] if "add" in name else args[0]
            self.multiply_adds += out.numel() * left.shape[-1]
        return out


# Networks


class Function(nn.Module):
    """A function of ``x`` and of the modules that it uses."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts.values())


class Residual(nn.Module):
    """A residual block, in place where torch lets it."""

    def __init__(self, channels: int, in_place: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.relu, self.second = nn.ReLU(inplace=in_place), nn.Conv2d(channels, channels, 3, padding=1)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.relu(self.norm(self.first(x))))
        return self.relu(h.add_(x) if self.in_place else h + x)


class Gated(nn.Module):
    """``nas.nn`` as it is used: branches, a head over their slots."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = GatedConcat([_branch(kernel) for kernel in (1, 3, 5)])
        self.head = BlockLinear(3, 8, 5)

    def forward(self, x: Tensor, architecture: tuple) -> Tensor:
        return self.head(self.mix(x, architecture[0]).map(lambda z: z.flatten(1)))

    def dense(self, x: Tensor, architecture: tuple) -> Tensor:
        return self.mix(x, architecture[0]).dense()


def _branch(kernel: int) -> nn.Module:
    layers = [nn.Conv2d(3, 2, kernel, padding=kernel // 2), nn.BatchNorm2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Self-attention and a feed-forward part, which have no layerwise rules; twice as many outputs as inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).repeat(1, 1, 2)


class Recurrent(nn.Module):
    """The last state of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)[0][:, -1]


@dataclass(frozen=True)
class Case:
    """A network, which :func:`module` copies with weights of its own, and the shape of a sample.

    Attributes:
        layerwise: whether all of its operations have rules.
        forward: whether torch has forward derivatives for it.
    """

    network: nn.Module
    shape: tuple[int, ...]
    layerwise: bool = True
    forward: bool = True

    @property
    def plain(self) -> bool:
        """Whether it is handed over as a function, not as a module."""
        return isinstance(self.network, Function)


def _twice(x: Tensor, layer: nn.Module, last: nn.Module) -> Tensor:
    return last(torch.tanh(layer(torch.tanh(layer(x)) + x)))


def _two_branches(x: Tensor, layer: nn.Module) -> Tensor:
    """One value is used in two branches, and one of them goes on in place."""
    h = layer(x)
    left = h * 2
    h.relu_()
    left += h
    return torch.cat([left.chunk(2, -1)[1], h, torch.sigmoid(left)], 1)


Seq, _SHARED = nn.Sequential, nn.Linear(4, 4)
MODELS: dict[str, Case] = {
    "mlp": Case(Seq(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), (6,)),
    "mlp-log-softmax": Case(Seq(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 3, bias=False), nn.LogSoftmax(-1)), (6,)),
    "mlp-softmax": Case(Seq(nn.Linear(6, 7), nn.SiLU(), nn.Linear(7, 5), nn.Softplus(), nn.Softmax(1)), (6,)),
    "mlp-begins-elementwise": Case(Seq(nn.ELU(), nn.ReLU(), nn.Linear(5, 4), nn.Sigmoid()), (5,)),
    "widens": Case(Seq(nn.Linear(2, 8), nn.Sigmoid(), nn.Linear(8, 30), nn.LeakyReLU(0.3)), (2,)),
    "bottleneck": Case(Seq(nn.Linear(12, 2), nn.Tanh(), nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 11)), (12,)),
    "linear": Case(Seq(nn.Linear(4, 3)), (4,)),
    "linear-alone": Case(nn.Linear(4, 3), (4,)),
    "identity": Case(Seq(), (4,)),
    "nested": Case(Seq(Seq(_SHARED, nn.Tanh()), Seq(Seq(_SHARED), nn.ReLU())), (4,)),
    "same-module-in-a-row": Case(Seq(_SHARED, nn.Tanh(), _SHARED, nn.Tanh(), _SHARED), (4,)),
    "twice": Case(Function(_twice, layer=nn.Linear(5, 5), last=nn.Linear(5, 2)), (5,)),
    "two-branches": Case(Function(_two_branches, layer=nn.Linear(4, 6)), (4,)),
    "tokens": Case(Seq(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Flatten(), nn.Linear(15, 3)), (3, 4)),
    "tokens-out": Case(Seq(nn.Linear(4, 5), nn.Softmax(-1), nn.LayerNorm((3, 5)), nn.Linear(5, 2)), (3, 4)),
    "unflatten": Case(Seq(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.Softmax(1), nn.Linear(3, 2)), (4,)),
    "batch-norm-1d": Case(Seq(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3)), (4,)),
    "cnn-stride": Case(Seq(nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 2, (2, 3), (1, 2)), nn.Tanh()), (2, 7, 6)),
    "cnn-same": Case(
        Seq(nn.Conv2d(2, 3, 3, padding="same"), nn.SiLU(), nn.Conv2d(3, 2, 3, dilation=2, padding="same")), (2, 5, 4)
    ),
    "cnn-valid": Case(
        Seq(nn.Conv2d(2, 3, 2, padding="valid", bias=False), nn.ELU(), nn.Flatten(), nn.Linear(36, 2)), (2, 5, 4)
    ),
    "cnn-circular": Case(
        Seq(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten()), (2, 4, 4)
    ),
    "cnn-reflect": Case(Seq(nn.Conv2d(2, 2, 3, padding=(1, 2), padding_mode="reflect"), nn.Tanh()), (2, 4, 4)),
    "cnn-groups": Case(
        Seq(nn.Conv2d(4, 2, 3, groups=2, dilation=(1, 2), padding=(0, 2)), nn.ReLU(), nn.Flatten()), (4, 4, 3)
    ),
    "cnn-depthwise": Case(Seq(nn.Conv2d(3, 3, 3, groups=3, padding=1), nn.Hardswish(), nn.Conv2d(3, 2, 1)), (3, 4, 4)),
    "cnn-1d": Case(Seq(nn.Conv1d(2, 3, 3, 2, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6, 2)), (2, 8)),
    "cnn-3d": Case(Seq(nn.Conv3d(1, 2, 2, padding=(0, 1, 0)), nn.Tanh(), nn.AvgPool3d(2), nn.Flatten()), (1, 3, 3, 4)),
    "pooling": Case(
        Seq(nn.Conv2d(2, 3, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1), nn.Flatten()), (2, 6, 6)
    ),
    "adaptive": Case(
        Seq(nn.Conv2d(2, 3, 3), nn.GELU(), nn.AdaptiveAvgPool2d((2, 3)), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        (2, 6, 6),
    ),
    "batch-norm": Case(
        Seq(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout2d(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (2, 5, 5),
    ),
    "group-norm": Case(
        Seq(nn.Conv2d(2, 6, 1), nn.GroupNorm(3, 6), nn.ELU(), nn.GroupNorm(1, 6, affine=False), nn.Flatten()), (2, 3, 3)
    ),
    "residual": Case(Seq(nn.Conv2d(2, 3, 3), Residual(3, False), nn.Flatten(), nn.Linear(27, 2)), (2, 5, 5)),
    "residual-in-place": Case(Seq(nn.Conv2d(2, 3, 3), Residual(3, True), Residual(3, True), nn.Flatten()), (2, 5, 5)),
    "in-place-first": Case(Seq(nn.ReLU(inplace=True), nn.Linear(4, 3), nn.LeakyReLU(inplace=True)), (4,)),
    "in-place": Case(Function(lambda x: x.mul_(2).sin()), (4,)),
    "in-place-without-rule": Case(Function(lambda x: x.mul_(2).cumsum(1)), (4,), layerwise=False),
    "gated-one": Case(Function(lambda x, net: net(x, (1,)), net=Gated()), (3, 4, 4)),
    "gated-two": Case(Function(lambda x, net: net(x, ((0, 2),)), net=Gated()), (3, 4, 4)),
    "gated-dense": Case(Function(lambda x, net: net.dense(x, ((0, 2),)).flatten(1), net=Gated()), (3, 4, 4)),
    "gated-sum": Case(Function(lambda x, net: net(x, (0, 1)), net=GatedSum([nn.Linear(4, 3), nn.Linear(4, 3)])), (4,)),
    "sine": Case(Function(lambda x: torch.sin(x) * x + x**2 / (1 + x.exp()) - 3), (2, 3)),
    "quotients": Case(Function(lambda x: (2 / (x * x + 1) + (1 - x)) * (x - 4) / -3), (4,)),
    "cat": Case(Function(lambda x: torch.cat([x.mean(1, keepdim=True), x[:, 1:] * 2, 2 - x, x[:, ::2]], 1)), (4,)),
    "chunks": Case(Function(lambda x: torch.add(*(part.sin() for part in x.chunk(2, -1)), alpha=2)), (3, 4)),
    "means": Case(Function(lambda x: x.square().mean((2, 3)) - x[:, :, 0, -1].exp()), (3, 2, 4)),
    "permuted": Case(
        Function(lambda x, last: last(x.permute(0, 2, 1).tanh()).transpose(1, 2).flatten(1), last=nn.Linear(3, 2)),
        (3, 4),
    ),
    "cumsum": Case(Function(lambda x: torch.cumsum(x * x, 1)), (5,), layerwise=False),
    "fft": Case(Function(lambda x: torch.fft.rfft(torch.sin(x)).abs()), (5,), layerwise=False),
    "stack": Case(Function(lambda x: torch.stack([x.sin(), x.cos(), x], 2)), (3,), layerwise=False),
    "recurrent": Case(Recurrent(), (3, 4), layerwise=False),
    "encoder": Case(Encoder(), (3, 4), layerwise=False, forward=False),
    "number-out": Case(
        Function(lambda x, net: net(x).squeeze(1), net=Seq(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))), (4,), False
    ),
    "number-out-norm": Case(Function(lambda x: x.norm(dim=1)), (4,), layerwise=False),
    "number-in": Case(
        Function(lambda x, net: net(x.unsqueeze(1)), net=Seq(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 3))), ()
    ),
    "number-in-and-out": Case(Function(lambda x: torch.sin(x) * x - 2), ()),
}


class Tripled(nn.Linear):
    """A subclass of a module that has a rule."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 3


class Around(nn.Sequential):
    """A Sequential with a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def patched(layer: nn.Module) -> nn.Module:
    """The module with a ``forward`` of its own."""
    own = type(layer).forward
    layer.forward = lambda x: torch.sin(own(layer, x))  # type: ignore[method-assign, assignment]
    return layer


def hooked(layer: nn.Module, register: str, hook: Callable, **options: Any) -> nn.Module:
    """The module with a hook."""
    getattr(layer, register)(hook, **options)
    return layer


def _linear() -> nn.Linear:
    return nn.Linear(4, 4).double()


def _after(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
    return out * 2


DISGUISED: dict[str, Callable[[], nn.Module]] = {
    "subclass": lambda: Tripled(4, 4).double(),
    "subclass of Sequential": lambda: Around(_linear(), nn.Tanh()),
    "forward replaced": lambda: patched(_linear()),
    "forward of an activation replaced": lambda: nn.Sequential(_linear(), patched(nn.Tanh())),
    "forward of a Sequential replaced": lambda: nn.Sequential(patched(nn.Sequential(_linear(), nn.Tanh()))),
    "forward hook": lambda: hooked(_linear(), "register_forward_hook", _after),
    "forward hook on an activation": lambda: nn.Sequential(
        _linear(), hooked(nn.Tanh(), "register_forward_hook", _after)
    ),
    "forward hook on an identity": lambda: hooked(nn.Identity(), "register_forward_hook", _after),
    "forward hook on a Sequential": lambda: hooked(nn.Sequential(_linear()), "register_forward_hook", _after),
    "forward hook with keywords": lambda: hooked(
        _linear(), "register_forward_hook", lambda m, args, kwargs, out: out * 2, with_kwargs=True
    ),
    "forward pre-hook": lambda: hooked(_linear(), "register_forward_pre_hook", lambda m, args: (args[0] * 2,)),
    "backward hook": lambda: hooked(_linear(), "register_full_backward_hook", lambda m, into, out: None),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(_linear()).eval(),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(_linear()).eval(),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(_linear()).eval(),
    "old weight norm": lambda: nn.utils.weight_norm(_linear()).eval(),
}
"""Modules that look like one with a rule and do something else; all take four features and give four."""

LAYERWISE = [name for name, case in MODELS.items() if case.layerwise]
MODULES = [name for name, case in MODELS.items() if any(True for _ in case.network.parameters())]


def module(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network of the table, in eval mode; its numbers are those of float32 in any type."""
    model = copy.deepcopy(MODELS[name].network).float().eval()
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn / max(1, parameter[0].numel()) ** 0.5)
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(generator=generator)
                part.running_var.uniform_(0.5, 2, generator=generator)
    return model.to(dtype)


def build(name: str, dtype: torch.dtype = torch.float64) -> Network:
    """The same as it is handed to the functions under test: a module, or a function."""
    model = module(name, dtype)
    return model.forward if MODELS[name].plain else model


def inputs(name: str, batch: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """A batch for a network of the table."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(batch, *MODELS[name].shape, generator=generator).to(dtype)


@functools.cache
def known_jacobian(name: str, seed: int = 0) -> Tensor:
    """``jacobian(build(name), inputs(name, seed=seed))`` by the slow reference, for all tests that ask."""
    return jacobian(build(name), inputs(name, seed=seed))
