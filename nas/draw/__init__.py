"""Every image the project draws, as the bytes of a PNG; matplotlib is imported when one is drawn, not before."""

from nas.draw.choices import draw_choices
from nas.draw.confusion import draw_confusion
from nas.draw.curves import LONGEST, MOST, draw_curves
from nas.draw.grid import draw_grid
from nas.draw.maps import Map, draw_maps
from nas.draw.scatter import Panel, draw_scatter
from nas.draw.search import Axis, Points, draw_curve, draw_front, draw_values
from nas.draw.supernet import draw_supernet
from nas.draw.verdict import draw_verdict

__all__ = [
    "LONGEST",
    "MOST",
    "Axis",
    "Map",
    "Panel",
    "Points",
    "draw_choices",
    "draw_confusion",
    "draw_curve",
    "draw_curves",
    "draw_front",
    "draw_grid",
    "draw_maps",
    "draw_scatter",
    "draw_supernet",
    "draw_values",
    "draw_verdict",
]
