"""A batch of images, to see what the network sees."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

SHOWN = 32
COLUMNS = 8
WIDEST = 1400
"""Pixels of a row."""


def draw_grid(batch: Tensor) -> bytes:
    """The first 32 images of ``(B, 1 or 3, H, W)`` in [0, 1] in rows of at most 8, small ones three times as large."""
    assert batch.ndim == 4, batch.shape
    assert batch.shape[1] in (1, 3), batch.shape
    assert batch.is_floating_point(), batch.dtype
    images = batch[:SHOWN].detach().cpu().float().clamp(0, 1).expand(-1, 3, -1, -1)
    if images.shape[-1] <= 64:
        images = images.repeat_interleave(3, -1).repeat_interleave(3, -2)
    columns = min(COLUMNS, len(images), max(WIDEST // (images.shape[-1] + 8), 1))
    images = pad(images, (4, 4, 4, 4, 0, 0, 0, -len(images) % columns), value=1.0)
    count, _, height, width = images.shape
    page = images.view(count // columns, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    buffer = BytesIO()
    pixels = (page.reshape(count // columns * height, columns * width, 3) * 255).round().byte()
    Image.fromarray(pixels.numpy()).save(buffer, format="png")  # matplotlib would take a third of a second to import
    return buffer.getvalue()
