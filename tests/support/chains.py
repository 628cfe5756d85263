"""Small chains to evaluate, with what makes sharing between subnetworks difficult, and images for them."""

import torch
from torch import nn

from nas.nn import GatedConcat, GatedSum, conv_bn_relu
from nas.settings import CustomSettings
from nas.space import Chained, SearchSpace, Slot, build_space


def images(count: int, batch_size: int, seed: int, side: int = 8, classes: int = 3) -> list:
    """Random batches ``(x, y)``; the last one may be smaller."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, side, side, generator=random)
    y = torch.randint(classes, (count,), generator=random)
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


class DenseSlot(nn.Module):
    """Branches of several widths, concatenated with their zeros, and a BatchNorm of the slot's own behind a mixer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = GatedConcat([conv_bn_relu(channels, width, 3) for width in (2, 4)], widths=[2, 4])
        self.mixer = conv_bn_relu(6, channels, 1)

    def forward(self, x, active):
        return self.mixer(self.mix(x, active).dense())


class AwkwardNet(Chained):
    """BatchNorm of all kinds, also outside of branches, dropout, slots of several sizes and kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 4, 3)
        cumulative, batchwise = nn.BatchNorm2d(4, momentum=None), nn.BatchNorm2d(4, track_running_stats=False)
        first = [nn.Identity(), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), cumulative, nn.Dropout(0.5))]
        last = [nn.Identity(), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), batchwise), conv_bn_relu(4, 4, 1)]
        self.blocks = nn.ModuleList([GatedSum(first), DenseSlot(4), GatedSum(last)])
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def prologue(self, x):
        return self.stem(x)

    def epilogue(self, x):
        return self.head(self.norm(x.mean(dim=(2, 3))))


class UnchainedNet(AwkwardNet):
    """A skip over the last slot: what the slots give is not all that the end takes."""

    def forward(self, x, architecture):
        x = self.blocks[1](self.blocks[0](self.prologue(x), architecture[0]), architecture[1])
        return self.epilogue(x + self.blocks[2](x, architecture[2]))


class SharingNet(AwkwardNet):
    """Two slots have a convolution in common, so that what their parameters number does not add up."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].branches[1] = self.blocks[2].branches[2][0]


class TrivialNet(Chained):
    """Eight slots of three choices that cost next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(GatedSum([nn.Identity(), nn.ReLU(), nn.Tanh()]) for _ in range(8))

    def prologue(self, x):
        return x.flatten(1)

    def epilogue(self, x):
        return x


def custom(name: str) -> SearchSpace:
    """The space of a class of this file."""
    return build_space(CustomSettings(factory=f"support.chains:{name}"))


def lively(space: SearchSpace) -> nn.Module:
    """A supernet in eval mode whose running statistics and affine weights are not the initial ones."""
    supernet = space.supernet().eval()
    random = torch.Generator().manual_seed(1)
    for module in supernet.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                if tensor is not None:
                    tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.5)
    return supernet


def slots(*counts: int) -> tuple[Slot, ...]:
    """Slots with so many choices."""
    return tuple(Slot(f"slot{i}", tuple(map(str, range(count)))) for i, count in enumerate(counts))
