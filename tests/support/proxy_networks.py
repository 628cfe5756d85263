"""Small networks of every kind that a proxy meets, for images ``(3, 8, 8)`` and five classes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.seeds import generator, weights
from nas.settings import ChainSettings, TwoBranchSettings
from nas.space import build_space

CLASSES = 5


class Spellings(nn.Module):
    """Every way to write a ReLU, with modules that are used in several places; biases, no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(6)])
        self.relu, self.in_place = nn.ReLU(), nn.ReLU(inplace=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e, f = self.convs
        x = F.relu(a(x))
        x = torch.relu(b(x))
        x = c(x).relu()
        x = d(x).add_(0.1).relu_()
        x = F.relu(e(x), inplace=True)
        x = self.in_place(f(x))
        x = self.relu(self.relu(self.relu(x - 0.02)) - 0.02)  # zeros are not above zero
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    """BatchNorm, a sum, a module that is called twice with ReLUs in place, and a strided shortcut."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), norm(4))
        self.relu = nn.ReLU(inplace=True)
        self.one, self.norm_one = nn.Conv2d(4, 6, 3, 2, 1, bias=False), norm(6)
        self.two, self.norm_two = nn.Conv2d(6, 6, 3, padding=1, bias=False), norm(6)
        self.short = nn.Conv2d(4, 6, 1, 2)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.norm_two(self.two(self.relu(self.norm_one(self.one(x)))))
        y += self.short(x)
        return self.head(self.relu(y).mean((2, 3)))


class Recurrent(nn.Module):
    """One convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.again(F.relu(self.again(x)))).mean((2, 3)))


class Centred(nn.Module):
    """Shifts its images first, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.inner, self.in_place = Residual(), in_place

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.5) if self.in_place else x - 0.5
        y: Tensor = self.inner(x)
        return y


class Unused(nn.Module):
    """A convolution, in ``dead``, that no output depends on, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dead, self.never = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        self.dead(x)
        return self.head(x.mean((2, 3)))


def plain_cnn() -> nn.Sequential:
    """Smooth nowhere, no normalisation, biases."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    first, second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 6, 3, 2)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(inplace=True), pool, nn.Linear(6, CLASSES))


def grouped() -> nn.Sequential:
    """Grouped and depthwise convolutions, dilation, BatchNorm without affine."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 1, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def linear_only() -> nn.Sequential:
    small = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
    return nn.Sequential(small, nn.Linear(48, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, CLASSES))


def tied() -> nn.Sequential:
    net = nn.Sequential(
        *[nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)],
    )
    net[4].weight = net[2].weight
    return net


def frozen() -> nn.Module:
    net = Residual()
    for part in (net.stem, net.two, net.head):
        part.requires_grad_(False)
    return net


def partly_eval() -> nn.Module:
    """As a fine-tuner leaves it: some BatchNorms in eval mode."""
    net = Residual().train()
    net.stem.eval()
    net.norm_two.eval()
    return net


def chain(architecture: tuple[int, ...], merge: str = "sum") -> Callable[[], nn.Module]:
    settings = ChainSettings(
        widths=[4, 6], depths=[1, 2], candidates=["skip", "conv3", "sep3", "mb3_k3"], merge=merge, stem_stride=1
    )
    return lambda: build_space(settings, 3, 8, CLASSES).subnet(architecture)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain-skips": chain((0, 0, 1)),
    "chain-mixed": chain((1, 2, 3)),
    "spellings": Spellings,
    "residual": Residual,
    "group_norm": lambda: Residual(lambda width: nn.GroupNorm(2, width)),
    "plain": plain_cnn,
    "grouped": grouped,
    "linear": linear_only,
    "partly_eval": partly_eval,
}
"""What the published codes agree on."""

CORNERS: dict[str, Callable[[], nn.Module]] = {
    "tied": tied,
    "frozen": frozen,
    "recurrent": Recurrent,
    "unused": Unused,
    "centred": lambda: Centred(in_place=False),
    "centred-in-place": lambda: Centred(in_place=True),
}
"""What they do not, or crash on."""

FUNCTIONAL: dict[str, Callable[[], nn.Module]] = {
    "chain-concat": chain((1, 2, 0), merge="concat"),
    "two_branch": lambda: build_space(TwoBranchSettings(), 3, 32, CLASSES).subnet((1,)),
}
"""Extracted subnetworks with convolutions or Linears that are function calls on bare parameters."""


def build(name: str, seed: int = 0) -> nn.Module:
    """The network with weights of ``seed`` and BatchNorms that are not as new."""
    with weights(seed):
        net = {**NETWORKS, **CORNERS, **FUNCTIONAL}[name]()
    draw = generator(seed, "norms")
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)) and module.affine:
            for parameter, centre in ((module.weight, 1.0), (module.bias, 0.0)):
                parameter.data.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=draw))
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draw))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=draw))
    return net


def make_batches(number: int = 3, size: int = 5, image_size: int = 8, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    draw = generator(seed, "images")
    return [
        (
            torch.randn(size, 3, image_size, image_size, generator=draw),
            torch.randint(CLASSES, (size,), generator=draw),
        )
        for _ in range(number)
    ]


def doubled(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [(x.double(), y) for x, y in batches]
