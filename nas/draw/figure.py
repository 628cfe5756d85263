"""What all drawings share: colours, a figure without pyplot's global state, axes, and the bytes of a PNG."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, which people with any colour vision can tell apart.
BLUE, ORANGE = "#0072b2", "#d55e00"
INK, GREY, LINE = "#1f2d3d", "#7a8796", "#d6dee7"
COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
LINES = ("-", "--", ":", "-.")
"""For more curves than there are colours."""
TITLE, TEXT, SMALL = 11, 9.5, 8.5
"""Sizes of letters, in points."""
Layout = Literal["constrained", "compressed"]


def new_figure(width: float, height: float, layout: Layout | None = "constrained") -> Figure:
    """An empty figure; ``width`` and ``height`` in inches, drawn with 110 pixels an inch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout=layout)
    if layout:
        figure.set_layout_engine(layout, w_pad=0.08, h_pad=0.08)
    return figure


def to_png(figure: Figure) -> bytes:
    """Draw a figure with Agg; equal figures give equal bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # the version of matplotlib is no content
    return buffer.getvalue()


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG in pixels."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def style(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Label axes, and take away what is no data."""
    axes.set_xlabel(x, fontsize=TEXT, color=INK)
    axes.set_ylabel(y, fontsize=TEXT, color=INK)
    axes.set_title(title, fontsize=TEXT, color=INK, loc="left")
    axes.tick_params(labelsize=SMALL, colors=INK)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
