"""Signed maps over a picture, one for each class, on one scale of colours.

Lengths are in points. A picture has ``SCALE`` pixels a point, as in :mod:`nas.track.picture`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nas.track.picture import ACCENT, BLUE, GREY, INK, LINE, SCALE, WHITE, Colour

LOW, HIGH = (12, 44, 92), (138, 52, 8)
"""The ends of the scale of colours: BLUE and ACCENT on the way from white, and beyond."""

MARGIN, GAP = 28, 18  # border; between two tiles
TILE = 132  # side of a map, about: a pixel of the picture is a whole number of pixels wide
COLUMNS = 5  # maps in a row
TOP, HEAD, FOOT = 66, 32, 54  # heights of the titles, of a map's heading, of the scale of colours


@dataclass(frozen=True)
class Map:
    """One class.

    Attributes:
        name: what stands over the map.
        probability: in [0, 1].
        values: ``(H, W)``, signed.
        note: small, behind the name.
    """

    name: str
    probability: float
    values: Tensor
    note: str = ""


def draw_maps(picture: Tensor, maps: Sequence[Map], title: str, subtitle: str, unit: str) -> Image.Image:
    """The picture, large, and its maps beside it, all on one scale of colours with white for zero.

    Args:
        picture: ``(1 or 3, H, W)`` in [0, 1].
        maps: the first is framed.
        title: large, above.
        subtitle: small, below the title.
        unit: of the maps' values, below the scale.
    """
    assert picture.shape[0] in (1, 3), picture.shape
    height, width = picture.shape[1:]
    zoom = max(1, round(TILE * SCALE / max(height, width)))
    tile_w, tile_h = width * zoom / SCALE, height * zoom / SCALE
    columns = min(COLUMNS, len(maps))
    rows = math.ceil(len(maps) / columns)
    high = tile_h * min(rows, 2) + (HEAD + GAP) * (min(rows, 2) - 1)  # the picture is as high as two rows of maps
    left = high * width / height
    start = MARGIN + left + 2 * GAP
    page_w = max(start + columns * (tile_w + GAP) - GAP + MARGIN, 700, 2 * MARGIN + _length(subtitle, 11))
    page_h = TOP + rows * (HEAD + tile_h + GAP) + FOOT + MARGIN
    page = Image.new("RGB", (round(page_w * SCALE), round(page_h * SCALE)), WHITE)
    draw = ImageDraw.Draw(page)
    _text(draw, MARGIN, MARGIN + 2, title, 17, INK, "lm")
    _text(draw, MARGIN, MARGIN + 24, subtitle, 11, GREY, "lm")

    shown = (picture.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1) * 255).round().byte()
    _tile(page, draw, MARGIN, TOP + HEAD, shown, (round(left * SCALE), round(high * SCALE)), LINE)
    limit = max(float(one.values.abs().max()) for one in maps)
    for index, one in enumerate(maps):
        row, column = divmod(index, columns)
        x, y = start + column * (tile_w + GAP), TOP + row * (HEAD + tile_h + GAP)
        _heading(draw, x, y, tile_w, one, index == 0)
        colours = coloured(one.values, limit)
        _tile(page, draw, x, y + HEAD, colours, (width * zoom, height * zoom), ACCENT if index == 0 else LINE)
    _scale(page, draw, start, page_h - MARGIN - FOOT + 6, page_w - MARGIN - start, limit, unit)
    return page


def coloured(values: Tensor, limit: float) -> Tensor:
    """``(..., 3)`` bytes: white at zero, blue towards ``-limit``, orange towards ``limit``."""
    share = (values.detach().cpu().double() / (limit or 1)).clamp(-1, 1)
    stops = torch.tensor([LOW, BLUE, WHITE, ACCENT, HIGH], dtype=torch.float64)
    place = (share + 1) * 2  # from 0 to 4, a stop at every whole number
    before = place.floor().clamp(max=3).long()
    between = (place - before)[..., None]
    return (stops[before] * (1 - between) + stops[before + 1] * between).round().byte()


def number(value: float) -> str:
    """Short, with its sign: ``+0.35``, ``-2.1e-07``, ``0``."""
    return f"{value:+.2g}" if value else "0"


def _tile(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    colours: Tensor,
    size: tuple[int, int],
    frame: Colour,
) -> None:
    # A picture of (H, W, 3) bytes, enlarged to size without smoothing, in a frame around it.
    left, top = round(x * SCALE), round(y * SCALE)
    page.paste(Image.fromarray(colours.numpy()).resize(size, Image.Resampling.NEAREST), (left, top))
    thick = 2 * SCALE if frame == ACCENT else SCALE
    corners = (left - thick, top - thick, left + size[0] + thick - 1, top + size[1] + thick - 1)
    draw.rectangle(corners, outline=frame, width=thick)


def _heading(draw: ImageDraw.ImageDraw, x: float, y: float, width: float, one: Map, first: bool) -> None:
    # Name and probability, and a bar as long as the probability.
    percent = f"{100 * one.probability:.1f}%"
    room = width - _length(percent, 12) - 8
    note = f"  {one.note}" if one.note and _length(f"{one.name}  {one.note}", 13) <= room else ""
    name = one.name
    while _length(name, 13) > room and len(name) > 4:
        name = name.removesuffix("...")[:-1] + "..."
    _text(draw, x, y + 10, name, 13, INK, "lm")
    if note:
        _text(draw, x + _length(name, 13), y + 11, note, 11, GREY, "lm")
    _text(draw, x + width, y + 10, percent, 12, INK if first else GREY, "rm")
    for share, colour in (1.0, LINE), (one.probability, ACCENT if first else BLUE):
        corners = (x * SCALE, (y + 20) * SCALE, (x + width * share) * SCALE - 1, (y + 23) * SCALE - 1)
        if corners[2] > corners[0]:
            draw.rectangle(corners, fill=colour)


def _scale(
    page: Image.Image, draw: ImageDraw.ImageDraw, x: float, y: float, width: float, limit: float, unit: str
) -> None:
    size = (round(width * SCALE), 12 * SCALE)
    ramp = coloured(torch.linspace(-1, 1, size[0]), 1.0).expand(size[1], -1, -1)
    _tile(page, draw, x, y, ramp.contiguous(), size, LINE)
    for share in (-1.0, -0.5, 0.0, 0.5, 1.0):
        at = x + width * (share + 1) / 2
        draw.line((at * SCALE, (y + 13) * SCALE, at * SCALE, (y + 17) * SCALE), fill=GREY, width=SCALE)
        anchor = {-1.0: "lm", 1.0: "rm"}.get(share, "mm")
        _text(draw, at, y + 25, number(share * limit), 12, INK, anchor)
    _text(draw, x + width / 2, y + 45, unit, 11, GREY, "mm")


def _text(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, points: int, colour: Colour, anchor: str) -> None:
    draw.text((x * SCALE, y * SCALE), text, colour, _font(points * SCALE), anchor=anchor)


@cache
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)


def _length(text: str, points: int) -> float:
    return _font(points * SCALE).getlength(text) / SCALE
