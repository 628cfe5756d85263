"""Reading drawn images back."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageColor


def opened(png: bytes) -> np.ndarray:
    """The pixels of a PNG, ``(H, W, 3)`` bytes."""
    with Image.open(BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count(pixels: np.ndarray, colour: str) -> int:
    """How many pixels have exactly this colour, such as ``#0072b2``."""
    return int((pixels == ImageColor.getrgb(colour)).all(-1).sum())


def border_is_white(pixels: np.ndarray, width: int = 3) -> bool:
    """Whether nothing is cut off at the edge."""
    edges = (pixels[:width], pixels[-width:], pixels[:, :width], pixels[:, -width:])
    return all((edge == 255).all() for edge in edges)
