"""A network with its normalisation in front of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.data.ordered import shift_and_scale
from nas.errors import ExportError


class Normalised(nn.Module):
    """Takes images as they are, uint8 ``(B, C, H, W)``, and gives what ``network`` gives for them normalised.

    Args:
        network: takes ``(image / 255 - mean) / std``.
        mean: of each channel, ``(C,)``.
        std: of each channel, ``(C,)``.

    Raises:
        ExportError: images that it is called with are not uint8.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        shift, scale = shift_and_scale(mean, std, mean.device)  # as in the training, to the last bit
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.train(network.training)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:  # normalised twice, they would give wrong classes and no error
            remedy = "give them as they are, 0 to 255"
            raise ExportError("images", images.dtype, "must be uint8: the network normalises them itself", remedy)
        logits: Tensor = self.network((images.float() - self.shift) * self.scale)
        return logits
