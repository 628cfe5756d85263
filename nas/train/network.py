"""The supernet of a run: with the weights it begins with, on its device, the same on all ranks; how it computes."""

from __future__ import annotations

import torch
from torch import nn

from nas.checkpoint import Initial, check_storable
from nas.cost import PathFlops
from nas.data import Splits
from nas.dist import World, synchronise
from nas.nn.compiled import compile_branches
from nas.settings import FixedGateSettings, TrainRunSettings
from nas.space import SearchSpace, check_supernet, warn_of_one


def build_network(
    settings: TrainRunSettings,
    space: SearchSpace,
    splits: Splits,
    initial: Initial,
    device: torch.device,
    world: World,
) -> tuple[nn.Module, PathFlops]:
    """The supernet, with ``initial`` weights in place of those of the seed, and what its paths cost.

    Raises:
        NasError: the network cannot be trained or saved, or ``initial`` is of another one.
    """
    supernet = space.supernet(settings.seed)
    initial.put_into(supernet)
    check_storable("model", supernet.state_dict())
    check_supernet(space, supernet, *splits.sizes)
    if not isinstance(settings.gate, FixedGateSettings):
        warn_of_one(space)
    flops = PathFlops(space, supernet, splits.input_shape)
    supernet = supernet.to(device)
    world.broadcast_(supernet.state_dict().values())
    return supernet, flops


def prepare(supernet: nn.Module, settings: TrainRunSettings, world: World) -> None:
    """Let a network that :func:`build_network` gave compute in the way of ``settings``."""
    way = settings.train.way
    if way.channels_last:
        supernet.to(memory_format=torch.channels_last)
    if world.size > 1 and settings.dist.batchnorm == "sync":
        synchronise(supernet, world)
    if way.compile == "branches":
        compile_branches(supernet)
