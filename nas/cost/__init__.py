"""What a path costs."""

from nas.cost.flops import PathFlops, count_flops

__all__ = ["PathFlops", "count_flops"]
