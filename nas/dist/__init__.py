"""Several processes that train one run: joining, what they must agree on, gradients and BatchNorm over all of them."""

from nas.dist.device import autocast, choose_device, set_cuda_flags
from nas.dist.gradients import NO_EXCHANGE, GradientExchange, NoExchange
from nas.dist.syncbn import synchronise
from nas.dist.world import SINGLE, World

__all__ = [
    "NO_EXCHANGE",
    "SINGLE",
    "GradientExchange",
    "NoExchange",
    "World",
    "autocast",
    "choose_device",
    "set_cuda_flags",
    "synchronise",
]
