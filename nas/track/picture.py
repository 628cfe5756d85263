"""A picture of the supernet with the shares of its choices drawn in.

Lengths are in points. A picture has ``SCALE`` pixels a point, and its lines are drawn twice as large and reduced,
because Pillow draws lines without smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from nas.space import Slot

SCALE = 2
MAX_BOXES = 12
MAX_COLUMNS = 8
"""Slots in a row of the picture; a longer supernet goes on in the next row."""

WHITE = (255, 255, 255)
INK = (31, 45, 61)
GREY = (122, 135, 150)
PALE = (240, 244, 248)
LINE = (214, 222, 231)
BLUE = (45, 105, 165)
ACCENT = (226, 120, 40)

MARGIN, GAP, PORT = 24, 64, 76  # border; between two columns; width of the pills at a row's ends
TITLE, BOX, SPACE = 52, 32, 9  # height of a row's titles; of a box; between two boxes
ACCURACY = 15  # height of a box's second line

Colour = tuple[int, int, int]


@dataclass
class _Box:
    """One choice, or the sum of those that are not shown."""

    name: str
    share: float
    colour: Colour
    accuracy: float | None = None
    largest: bool = False
    weight: float = 0.0
    """How strong its lines are, in [0, 1]."""


@dataclass
class _Column:
    """One slot with its boxes from top to bottom; ``width`` and ``box`` (a box's height) in points."""

    title: str
    subtitle: str
    boxes: list[_Box]
    width: float
    box: float

    @property
    def height(self) -> float:
        return len(self.boxes) * (self.box + SPACE) - SPACE


def draw_supernet(
    slots: Sequence[Slot],
    shares: Sequence[Sequence[float]],
    accuracies: Sequence[Mapping[int, float]] | None = None,
) -> Image.Image:
    """Draw slots from left to right, their choices as boxes, coloured by share.

    Args:
        slots: names of the slots and of their choices. Of more than 12 choices the 12 with the largest shares are
            shown, and one box for the others.
        shares: for each slot the share of each choice, in [0, 1].
        accuracies: for each slot choice -> accuracy in [0, 1], for those that have one.
    """
    known = accuracies or [{}] * len(slots)
    columns = [_column(*parts) for parts in zip(slots, shares, known, strict=True)]
    rows = math.ceil(len(columns) / MAX_COLUMNS)
    size = math.ceil(len(columns) / rows)  # 10 slots are drawn as 5 and 5, not as 8 and 2
    starts = range(0, len(columns), size)
    drawn = [_draw_row(columns, start, min(start + size, len(columns))) for start in starts]
    legend = "colour and line width: share of the steps so far     orange: the slot's largest share"
    if any(known):
        legend += "     acc: mean validation accuracy"
    width = max([row.width for row in drawn] + [round(SCALE * (2 * MARGIN + _length(legend, 11)))])
    foot = round(36 * SCALE)
    picture = Image.new("RGB", (width, sum(row.height for row in drawn) + foot), WHITE)
    y = 0
    for row in drawn:
        picture.paste(row, ((width - row.width) // 2 if len(drawn) == 1 else 0, y))
        y += row.height
    place = (picture.width / 2, y + foot / 3)
    ImageDraw.Draw(picture).text(place, legend, GREY, _font(11 * SCALE), anchor="mm")
    return picture


# ------------------------------------------------------------------------------------------------- what to draw


def _column(slot: Slot, shares: Sequence[float], accuracies: Mapping[int, float]) -> _Column:
    by_share = sorted(range(len(shares)), key=lambda k: -shares[k])
    first = by_share[0]
    leads = len(shares) > 1 and shares[first] > shares[by_share[1]]  # of equals none is the largest
    boxes = [
        # Uniform sampling is half-way between pale and blue, whatever the number of choices.
        _Box(
            slot.choices[k],
            shares[k],
            _mix(PALE, BLUE, min(shares[k] * len(shares) / 2, 1)),
            accuracies.get(k),
            leads and k == first,
            shares[k],
        )
        for k in sorted(by_share[:MAX_BOXES])
    ]
    if len(shares) > MAX_BOXES:
        rest = by_share[MAX_BOXES:]
        boxes.append(_Box(f"and {len(rest)} more", sum(shares[k] for k in rest), WHITE))
    text = max(_length(box.name, 13) + _length(_percent(box.share), 12) for box in boxes)
    width = min(max(text + 40, _length(slot.name, 15), 112), 190)
    height = BOX + (ACCURACY if accuracies else 0)
    number = f"{len(shares)} choice" + ("s" if len(shares) != 1 else "")
    return _Column(slot.name, number, boxes, width, height)


def _percent(share: float) -> str:
    percent = 100 * share
    if 0 < percent < 0.05:
        return "<0.1%"
    return f"{percent:.0f}%" if percent >= 9.95 or percent == 0 else f"{percent:.1f}%"


def _mix(one: Colour, other: Colour, amount: float) -> Colour:
    r, g, b = (round(a + (z - a) * amount) for a, z in zip(one, other, strict=True))
    return r, g, b


@cache
def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)


def _length(text: str, points: int) -> float:
    return _font(points * 2 * SCALE).getlength(text) / (2 * SCALE)


def _fit(text: str, points: int, width: float) -> str:
    """``text``, with its middle left out where it is longer than ``width``: names differ at their ends."""
    if _length(text, points) <= width:
        return text
    keep = len(text)
    while keep > 2:
        keep -= 1
        short = text[: (keep + 1) // 2] + "..." + text[len(text) - keep // 2 :]
        if _length(short, points) <= width:
            return short
    return "..."


# ---------------------------------------------------------------------------------------------------- how to draw


class _Canvas:
    """Draws in points on a picture of twice the wanted size."""

    def __init__(self, width: float, height: float) -> None:
        self.unit = 2 * SCALE
        self.image = Image.new("RGB", (round(width) * self.unit, round(height) * self.unit), WHITE)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, points: int, colour: Colour, anchor: str = "mm") -> None:
        place = (x * self.unit, y * self.unit)
        self.draw.text(place, text, colour, _font(points * self.unit), anchor=anchor)

    def box(self, x: float, y: float, w: float, h: float, r: float, fill: Colour, edge: Colour, line: float) -> None:
        corners = [v * self.unit for v in (x, y, x + w, y + h)]
        self.draw.rounded_rectangle(corners, r * self.unit, fill, edge, round(line * self.unit))

    def curve(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, width: float) -> None:
        """Draw a line that leaves and arrives horizontally, as a polygon: Pillow's thick lines are rough."""
        upper, lower = [], []
        for i in range(41):
            t = i / 40
            x, y = x0 + (x1 - x0) * t, y0 + (y1 - y0) * t * t * (3 - 2 * t)
            along, down = x1 - x0, (y1 - y0) * 6 * t * (1 - t)  # the direction there
            half = width / 2 / math.hypot(along, down)
            upper.append(((x + half * down) * self.unit, (y - half * along) * self.unit))
            lower.append(((x - half * down) * self.unit, (y + half * along) * self.unit))
        self.draw.polygon(upper + lower[::-1], colour)

    def reduced(self) -> Image.Image:
        return self.image.reduce(2)


def _draw_row(columns: Sequence[_Column], start: int, stop: int) -> Image.Image:
    """The columns from ``start`` to ``stop`` between two pills that say where the row comes from and goes to."""
    row = columns[start:stop]
    body = max(column.height for column in row)
    width = 2 * (MARGIN + PORT) + sum(column.width for column in row) + (len(row) + 1) * GAP
    canvas = _Canvas(width, TITLE + body + 2 * MARGIN)
    middle = MARGIN + TITLE + body / 2
    _pill(canvas, MARGIN, middle, "input" if start == 0 else "from above")
    x: float = MARGIN + PORT
    dots = []
    for number, column in enumerate(row):
        x += GAP
        # What leaves a slot meets in a dot half-way to the next one; a pill needs no dot.
        first, last = number == 0, number == len(row) - 1
        before, after = x - (GAP if first else GAP / 2), x + column.width + (GAP if last else GAP / 2)
        _draw_column(canvas, column, x, middle, before, after)
        x += column.width
        dots += [] if last else [after]
    for dot in dots:
        canvas.box(dot - 4, middle - 4, 8, 8, 4, WHITE, GREY, 1.5)
    _pill(canvas, x + GAP, middle, "output" if stop == len(columns) else "goes on")
    return canvas.reduced()


def _pill(canvas: _Canvas, x: float, middle: float, label: str) -> None:
    canvas.box(x, middle - 13, PORT, 26, 13, WHITE, GREY, 1.5)
    canvas.text(x + PORT / 2, middle, label, 11, INK)


def _draw_column(canvas: _Canvas, column: _Column, x: float, middle: float, before: float, after: float) -> None:
    """One slot at ``x``, its lines coming from (before, middle) and going to (after, middle)."""
    centre, right = x + column.width / 2, x + column.width
    canvas.text(centre, MARGIN + 12, _fit(column.title, 15, column.width + GAP - 12), 15, INK)
    canvas.text(centre, MARGIN + 31, column.subtitle, 11, GREY)
    top = middle - column.height / 2
    placed = [(top + i * (column.box + SPACE), box) for i, box in enumerate(column.boxes)]
    for y, box in sorted(placed, key=lambda item: item[1].weight):  # the strongest line on top
        colour, thick = _mix(LINE, BLUE, min(box.weight * 1.2, 1)), 1 + 4 * box.weight
        colour = ACCENT if box.largest else colour
        canvas.curve(before, middle, x, y + column.box / 2, colour, thick)
        canvas.curve(right, y + column.box / 2, after, middle, colour, thick)
    for y, box in placed:
        edge, line = (ACCENT, 2.5) if box.largest else (_mix(box.colour, INK, 0.2), 1)
        canvas.box(x, y, column.width, column.box, 8, box.colour, edge, line)
        ink = WHITE if sum(box.colour) < 440 else INK
        share = _percent(box.share)
        name = _fit(box.name, 13, column.width - 32 - _length(share, 12))
        canvas.text(x + 10, y + BOX / 2, name, 13, ink, "lm")
        canvas.text(right - 10, y + BOX / 2, share, 12, ink, "rm")
        if box.accuracy is not None:
            canvas.text(x + 10, y + BOX + 2, f"acc {100 * box.accuracy:.1f}%", 11, ink, "lm")
