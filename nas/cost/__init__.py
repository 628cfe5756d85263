"""What a path costs."""

from nas.cost.flops import PathFlops, count_flops
from nas.cost.latency import Latency, latency
from nas.cost.parameters import PathParameters, count_parameters
from nas.cost.paths import PathCost

__all__ = ["Latency", "PathCost", "PathFlops", "PathParameters", "count_flops", "count_parameters", "latency"]
