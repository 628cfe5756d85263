# %% [markdown]
# # A network of your own
#
# Any PyTorch module becomes a search space when it has gated blocks in it and `forward(x, architecture)`. This one has
# three places where one of three convolutions runs: 27 subnetworks.

# %%
import torch
from torch import nn

import nas
from nas.nn import GatedSum, conv_bn_relu


class Tiny(nn.Module):
    def __init__(self, channels=8, classes=4):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, channels, 3, padding=1), nn.Linear(channels, classes)
        kernels = {"conv1": 1, "conv3": 3, "conv5": 5}
        branches = lambda: [conv_bn_relu(channels, channels, kernel) for kernel in kernels.values()]
        self.blocks = nn.ModuleList(GatedSum(branches(), choices=list(kernels)) for _ in range(3))

    def forward(self, x, architecture):
        x = self.stem(x)
        for block, choice in zip(self.blocks, architecture):
            x = block(x, choice)
        return self.head(x.mean((2, 3)))


# %% [markdown]
# Images to train on: stripes in four directions, with noise. Yours may be any uint8 tensor `(N, C, H, W)`, an array, or
# a data set of torchvision.


# %%
def stripes(number, side=12):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (number,), generator=random)
    angle = labels * torch.pi / 4
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = torch.sin(torch.cos(angle)[:, None, None] * x + torch.sin(angle)[:, None, None] * y)
    noise = torch.randn(number, 3, side, side, generator=random)
    return ((waves[:, None] + 1.5 * noise) * 35 + 128).clamp(0, 255).byte(), labels


images, labels = stripes(1200)

# %% [markdown]
# A copy of the module is trained, so that this cell gives the same whenever it is run.

# %%
torch.manual_seed(0)
trained = nas.train_supernet(Tiny(), images, labels, epochs=8, classes=["0°", "45°", "90°", "135°"])
trained

# %% [markdown]
# What each of the 27 subnetworks is worth:

# %%
results = [trained.evaluate(architecture) for architecture in trained.space.enumerate()]
results.sort(key=lambda result: -result.accuracy)
for result in results[:3] + results[-3:]:
    print(trained.space.describe(result.architecture), f"{result.accuracy:.1%}")

# %% [markdown]
# The best one, alone, as PyTorch knows it:

# %%
network = trained.subnetwork(results[0].architecture)
torch.save(network.state_dict(), "stripes.pt")
network
