"""A picture of a batch of training data, to see what the network sees."""

from __future__ import annotations

from PIL import Image
from torch import Tensor
from torch.nn.functional import pad


def tile(sample: Tensor) -> Image.Image:
    """Up to 32 pictures (B, 1 or 3, H, W) in [0, 1] in rows of 8, small ones three times as large."""
    assert sample.ndim == 4, sample.shape
    assert sample.shape[1] in (1, 3), sample.shape
    assert sample.is_floating_point(), sample.dtype
    pictures = sample[:32].detach().cpu().float().clamp(0, 1).expand(-1, 3, -1, -1)
    if pictures.shape[-1] <= 64:
        pictures = pictures.repeat_interleave(3, -1).repeat_interleave(3, -2)
    columns = min(8, len(pictures))
    missing = -len(pictures) % columns
    pictures = pad(pictures, (4, 4, 4, 4, 0, 0, 0, missing), value=1.0)
    count, _, height, width = pictures.shape
    grid = pictures.view(count // columns, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    pixels = (grid.reshape(count // columns * height, columns * width, 3) * 255).round().byte()
    return Image.fromarray(pixels.numpy())
