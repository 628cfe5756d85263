"""``python scripts/minimal.py``: a gated network, trained on digits with nothing but torch and nas.nn.

Each step opens one branch at random. The other branches are not computed and not updated, and afterwards each open
branch is a network of its own.
"""

from __future__ import annotations

import random
import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from nas.nn import Active, BlockLinear, GatedConcat

KERNELS = (1, 3, 5)


class Net(nn.Module):
    """Three convolutional branches side by side, then one dense layer over all of their channels."""

    def __init__(self) -> None:
        super().__init__()
        # BatchNorm stands inside the branches: behind the concatenation it would see the zeros of closed branches.
        self.mix = GatedConcat([self.branch(k) for k in KERNELS])
        # One weight tensor for each branch, so that an open branch touches its own weights alone.
        self.head = BlockLinear(len(KERNELS), 16 * 4 * 4, 10)

    @staticmethod
    def branch(kernel: int) -> nn.Module:
        """``(B, 1, 8, 8)`` to ``(B, 16, 4, 4)``."""
        conv = nn.Conv2d(1, 16, kernel, padding=kernel // 2)
        return nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, x: Tensor, active: Active) -> Tensor:
        """``(B, 1, 8, 8)`` to logits ``(B, 10)``, by the branches in ``active``: an index, or a tuple of them."""
        z = self.mix(x, active)  # the values of the open branches; zeros for the others are meant, and not stored
        return self.head(z.map(lambda value: value.flatten(1)))  # flatten turns zeros into zeros, so z may be mapped


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images ``(N, 1, 8, 8)`` in [0, 1] and labels ``(N,)``: to train on, then to test on."""
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(digits.target)[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def main(steps: int = 300, seed: int = 0) -> list[float]:
    """Train, print and return the test accuracy of each branch."""
    random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # threads would wait for each other in a network this small
    x, y, test_x, test_y = data()
    net = Net()
    # A stock optimizer: it passes over parameters whose gradient is None, and those of closed branches are None.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        active = random.randrange(len(KERNELS))  # the gate: here a fair die
        loss = F.cross_entropy(net(x[batch], active), y[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        accuracies = [float((net(test_x, k).argmax(1) == test_y).float().mean()) for k in range(len(KERNELS))]
    for kernel, accuracy in zip(KERNELS, accuracies, strict=True):
        print(f"branch with {kernel}x{kernel} kernels: {accuracy:.1%} of {len(test_y)} test images")
    return accuracies


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
