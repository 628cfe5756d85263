"""What a path costs: FLOPs, parameters, latency and memory."""

from nas.cost.flops import FlopCounter, PathFlops, count_flops
from nas.cost.latency import Latency, latency
from nas.cost.parameters import PathParameters, count_parameters
from nas.cost.paths import PathCost

__all__ = [
    "FlopCounter",
    "Latency",
    "PathCost",
    "PathFlops",
    "PathParameters",
    "count_flops",
    "count_parameters",
    "latency",
]
