"""Search spaces: what can be chosen, and the supernet that holds all choices."""

from nas.space.base import Architecture, SearchSpace, Slot, in_order
from nas.space.build import build_space, check_supernet, infer_widths, warn_of_one
from nas.space.calibrate import recalibrate
from nas.space.chained import Chained
from nas.space.custom import ModuleSpace
from nas.space.extract import extract
from nas.space.model import ModelSpace, gate_modules

__all__ = [
    "Architecture",
    "Chained",
    "ModelSpace",
    "ModuleSpace",
    "SearchSpace",
    "Slot",
    "build_space",
    "check_supernet",
    "extract",
    "gate_modules",
    "in_order",
    "infer_widths",
    "recalibrate",
    "warn_of_one",
]
