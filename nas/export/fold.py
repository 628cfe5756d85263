"""A network with its normalisation in front of it."""

from __future__ import annotations

from torch import Tensor, nn


class Normalised(nn.Module):
    """Takes images as they are, uint8 ``(B, C, H, W)``, and gives what ``network`` gives for them normalised.

    Args:
        network: takes ``(image / 255 - mean) / std``.
        mean: of each channel, ``(C,)``.
        std: of each channel, ``(C,)``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.view(-1, 1, 1).clone())
        self.register_buffer("std", std.view(-1, 1, 1).clone())
        self.train(network.training)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images.float() / 255 - self.mean) / self.std)
        return logits
