"""The slow, obvious kernel: one torch.autograd.grad for each output entry of each sample, then dot products."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gradients(y: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """``(P,)``: the gradient of one number; zeros for what it does not depend on."""
    found = torch.autograd.grad(y, parameters, retain_graph=True, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
    return torch.cat([part.flatten() for part in parts])


def jacobian_rows(fn: Callable[[Tensor], Tensor], parameters: Iterable[Tensor], x: Tensor) -> Tensor:
    """``(B, M, P)``, one sample at a time."""
    wanted = [p for p in parameters if p.requires_grad]
    return torch.stack([torch.stack([gradients(e, wanted) for e in fn(one[None]).flatten()]) for one in x])


def kernel(
    fn: Callable[[Tensor], Tensor],
    parameters: Iterable[Tensor],
    x1: Tensor,
    x2: Tensor | None = None,
    output: str = "full",
) -> Tensor:
    """``(B1, B2, M, M)``, or ``(B1, B2)`` for trace and sum."""
    parameters = list(parameters)
    j1 = jacobian_rows(fn, parameters, x1)
    j2 = j1 if x2 is None else jacobian_rows(fn, parameters, x2)
    return reduced(torch.stack([torch.stack([a @ b.T for b in j2]) for a in j1]), output)


def reduced(full: Tensor, output: str) -> Tensor:
    """``(B1, B2)`` for trace and sum, from the full kernel."""
    if output == "trace":
        return full.diagonal(dim1=2, dim2=3).sum(-1)
    return full.sum((2, 3)) if output == "sum" else full


def batch_kernel(fn: Callable[[Tensor], Tensor], parameters: Iterable[Tensor], x: Tensor) -> Tensor:
    """``(B, B)``: gradients of each sample's summed outputs through the whole batch, and their dot products."""
    wanted = [p for p in parameters if p.requires_grad]
    rows = torch.stack([gradients(sample.sum(), wanted) for sample in fn(x)])
    return rows @ rows.T


def error(ours: Tensor, reference: Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    assert ours.shape == reference.shape, f"{tuple(ours.shape)} is not {tuple(reference.shape)}"
    assert ours.dtype == reference.dtype or ours.dtype == torch.float32
    return float((ours.to(reference.dtype) - reference).abs().max() / reference.abs().max())


class Residual(nn.Module):
    """``relu(x + body(x))``, in place where it can be."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        parts = [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
        self.body = nn.Sequential(*parts, nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + x).relu_()


class Twice(nn.Module):
    """One Linear called three times, on vectors and on sequences, and one convolution on maps of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.tanh(self.conv(x)), 2)
        z = torch.tanh(self.linear(self.conv(x).flatten(1)[:, :15].view(-1, 3, 5)))
        return self.head(torch.tanh(self.linear(torch.tanh(self.linear(z.mean(1))))))


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose; the bias of its first layer is that of its second."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.between = nn.Linear(5, 4), nn.Linear(4, 4)
        self.between.bias = self.encode.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.between(torch.tanh(self.encode(x)))), self.encode.weight.T)


class TwoRoles(nn.Module):
    """One vector that is the bias of a Linear and the weight of a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(5, 4), nn.LayerNorm(4)
        self.norm.weight = self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.tanh(self.linear(x)))


class Turned(nn.Module):
    """A convolution over maps whose first dimension is not that of the samples, though it has two entries as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.turned = nn.Linear(4, 4), nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.turned(torch.tanh(self.inner(x)).permute(1, 2, 0))).permute(2, 0, 1)


class Bare(nn.Module):
    """Parameters that no layer holds: a factor, an offset, a mask on a weight; and a weight of two roles."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)
        self.scale, self.offset = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(1, 2))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x)) * self.scale + torch.cat([self.offset, self.offset], 1)
        return F.linear(z, self.second.weight * self.mask, self.second.bias) * self.first.bias.sum()


class Tokens(nn.Module):
    """A Linear over sequences ``(B, T, F)``, one over ``(B * T, F)`` and one over ``(T, B, F)``."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.inner, self.flat, self.turned, self.norm = (*(nn.Linear(4, 4) for _ in range(3)), nn.LayerNorm(4))
        self.position = nn.Parameter(torch.randn(length, 4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(torch.tanh(self.inner(x)) + self.position)
        z = torch.tanh(self.flat(z.flatten(0, 1))).unflatten(0, x.shape[:2])
        return torch.tanh(self.turned(z.transpose(0, 1)).transpose(0, 1)).mean(1)


class Square(torch.autograd.Function):
    """A function that torch.func cannot look into."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x.square() * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return 2 * x * weight * grad, (x.square() * grad).sum(0)


class Opaque(nn.Module):
    """A parameter inside a torch.autograd.Function, and a number read into Python."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(5, 3), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(self.linear(x), self.weight) * float(self.weight.detach().abs().sum() > 0)


class Scaled(torch.autograd.Function):
    """A function that torch.func can transform, while a parameter inside it stays out of sight."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return x * weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return weight * grad, (x * grad).sum_to_size(weight.shape)


class HalfSeen(nn.Module):
    """A parameter that is used both in sight and inside a torch.autograd.Function."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(5, 3), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return Scaled.apply(self.linear(x) + self.weight, self.weight)


class DeadEnd(nn.Module):
    """Layers that are also called, or only called, for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.first(x + 1)
        z = torch.tanh(self.first(x))
        self.second(z * 2)
        y = self.second(z)
        self.second(z * 3)
        self.idle(x)
        return y


class Attention(nn.Module):
    """Attention over tokens, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.recurrent = nn.MultiheadAttention(4, 2, batch_first=True), nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(x + self.attention(x, x, x, need_weights=False)[0])[0][:, -1]


def _frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    net[0].requires_grad_(False)
    net[2].weight.requires_grad_(False)
    net[4].bias.requires_grad_(False)
    return net


def _conv(*args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    pool = nn.AdaptiveAvgPool2d((2, 1))
    return lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, *args, **kwargs), nn.Tanh(), pool)


def _norms() -> nn.Module:
    parts = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 2, bias=False)]
    parts += [nn.BatchNorm2d(4, affine=False), nn.Tanh(), nn.GroupNorm(2, 4), nn.LayerNorm((4, 3, 3)), nn.Tanh()]
    return nn.Sequential(*parts, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 4), nn.RMSNorm(4), nn.Linear(4, 2))


def _pools() -> nn.Module:
    parts = [nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(4, 3), nn.Softmax(-1), nn.Linear(3, 2))


def _maps(*parts: nn.Module, features: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*copy.deepcopy(parts), nn.Flatten(), nn.Linear(features, 2))


IMAGE = (3, 6, 6)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4), nn.GELU(), nn.Linear(4, 3)), (5,)),
    "no bias": (lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)), (5,)),
    "stride": (_conv(3, stride=2, padding=1), IMAGE),
    "padding of ints": (_conv((3, 1), padding=(2, 1)), IMAGE),
    "padding same": (_conv((4, 3), padding="same", dilation=(1, 2)), IMAGE),
    "padding valid": (_conv(2, padding="valid"), IMAGE),
    "padding circular": (_conv(3, padding=1, padding_mode="circular"), IMAGE),
    "groups": (_conv(3, groups=2, padding=1), IMAGE),
    "depthwise": (_conv(3, groups=4, bias=False), IMAGE),
    "dilation": (_conv(2, dilation=2, stride=(2, 1)), IMAGE),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv1d(3, 2, 2, stride=2)), (2, 6)),
    "conv3d": (_maps(nn.Conv3d(2, 3, 2, padding=1), nn.Tanh(), features=81), (2, 2, 2, 2)),
    "transposed": (_maps(nn.ConvTranspose2d(3, 2, 3), nn.Tanh(), features=128), IMAGE),
    "residual": (_maps(nn.Conv2d(3, 4, 3), Residual(4), Residual(4), features=64), IMAGE),
    "pooling": (_pools, IMAGE),
    "norms": (_norms, IMAGE),
    "instance norm": (lambda: nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.Flatten(), nn.Linear(108, 2)), IMAGE),
    "called twice": (Twice, (2, 6, 6)),
    "tied": (Tied, (5,)),
    "two roles": (TwoRoles, (5,)),
    "turned": (Turned, (2, 4)),
    "bare": (Bare, (5,)),
    "frozen": (_frozen, (5,)),
    "tokens": (lambda: Tokens(3), (3, 4)),
    "as many tokens as samples": (lambda: Tokens(2), (2, 4)),
    "opaque": (Opaque, (5,)),
    "half seen": (HalfSeen, (5,)),
    "dead end": (DeadEnd, (5,)),
    "attention": (Attention, (3, 4)),
    "output of two dimensions": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), (3, 4)),
    "one output": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)), (5,)),
}  # fmt: skip
"""By name: how to build it, and the shape of a sample."""


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[int, ...]]:
    """A model of the table in eval mode, with BatchNorm statistics that are not 0 and 1, and the shape of a sample."""
    factory, shape = MODELS[name]
    model = factory().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if (
            isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm))
            and module.weight is not None
        ):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval(), shape
