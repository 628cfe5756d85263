"""Signed maps over an image, one for each class, on one scale of colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nas.draw.figure import BLUE, GREY, INK, LINE, ORANGE, SMALL, TEXT, new_figure, to_png
from nas.draw.names import shorten

SCALE = ("#0c2c5c", BLUE, "#ffffff", ORANGE, "#7a3000")
"""From the most negative value over zero to the most positive one."""
COLUMNS = 5
TILE = 1.35
"""Inches of the longer side of a map."""


@dataclass(frozen=True)
class Map:
    """One class.

    Attributes:
        name: what stands over the map.
        probability: in [0, 1].
        values: ``(H, W)``, signed.
        note: behind the name.
    """

    name: str
    probability: float
    values: Tensor
    note: str = ""


def draw_maps(image: Tensor, maps: Sequence[Map], title: str, subtitle: str, unit: str) -> bytes:
    """The image, large, and its maps beside it, all on one scale of colours with white for zero, as a PNG.

    Args:
        image: ``(1 or 3, H, W)`` in [0, 1].
        maps: the first is framed.
        title: large, above.
        subtitle: small, below the title.
        unit: of the maps' values, below the scale.
    """
    assert image.shape[0] in (1, 3), image.shape
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    height, width = image.shape[1:]
    columns = min(COLUMNS, len(maps))
    rows = math.ceil(len(maps) / columns)
    tall = min(rows, 2)  # the image is as high as two rows of maps
    tile_w, tile_h = TILE * width / max(height, width), TILE * height / max(height, width) + 0.3
    page_w = max((tall + columns) * (tile_w + 0.2) + 0.5, 8.0)
    figure = new_figure(page_w, rows * tile_h + 1.5, layout="compressed")
    letters = int(page_w * 12.5)
    figure.suptitle(f"{shorten(title, letters)}\n{shorten(subtitle, letters)}", x=0.02, ha="left", size=TEXT, color=INK)
    grid = figure.add_gridspec(rows, tall + columns)
    shown = figure.add_subplot(grid[:tall, :tall])
    shown.imshow(image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).cpu().numpy(), interpolation="nearest")
    shown.set_anchor("N")
    shown.spines[:].set(color=LINE, linewidth=0.8)
    limit = max(float(one.values.abs().max()) for one in maps) or 1.0
    # With an odd number of colours there is one for zero.
    norm, colours = Normalize(-limit, limit), LinearSegmentedColormap.from_list("signed", SCALE, N=257)
    panels = [figure.add_subplot(grid[k // columns, tall + k % columns]) for k in range(len(maps))]
    for panel, one in zip(panels, maps, strict=True):
        first = one is maps[0]
        values = one.values.detach().cpu().numpy()
        panel.imshow(values, cmap=colours, norm=norm, interpolation="nearest")
        name = f"{one.name} ({one.note})" if one.note else one.name
        panel.set_title(shorten(name, 12), loc="left", fontsize=SMALL, color=INK)
        panel.set_title(f"{one.probability:.1%}", loc="right", fontsize=SMALL, color=INK if first else GREY)
        panel.spines[:].set(color=ORANGE if first else LINE, linewidth=2 if first else 0.8)
    for panel in (shown, *panels):
        panel.set(xticks=[], yticks=[])
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=panels, location="bottom", aspect=60, pad=0.02)
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    bar.set_ticks(ticks, labels=[number(tick) for tick in ticks])
    bar.set_label(unit, size=SMALL, color=GREY)
    bar.ax.tick_params(labelsize=SMALL, colors=INK)
    bar.outline.set_edgecolor(LINE)
    return to_png(figure)


def number(value: float) -> str:
    """Short, with its sign: ``+0.35``, ``-2.1e-07``, ``0``."""
    return f"{value:+.2g}" if value else "0"
