"""Tensors by name that come back from a file: compared with those they replace, then copied over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas.errors import NasError


@torch.no_grad()
def restore(own: Mapping[str, Tensor], found: Mapping[str, object]) -> None:
    """Copy ``found`` into the tensors ``own`` in place: all of them, or none.

    Raises:
        ValueError: a name is missing or unknown, or a tensor has another shape or dtype, or is not finite.
    """
    for name in [*own, *found]:
        if name not in found or name not in own:
            raise ValueError(f"{name} is {'missing' if name in own else 'unknown'}")
    for name, tensor in own.items():
        value = found[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} is {shape} and not {tuple(tensor.shape)}")
        check_values(name, value, tensor)
        if name.partition("/")[0] == "step" and float(value) < 0:  # of Adam, which takes roots of what it makes of it
            raise ValueError(f"{name} is negative")
    for name, tensor in own.items():
        tensor.copy_(found[name])  # type: ignore[arg-type]


def load_weights(network: nn.Module, weights: Mapping[str, object]) -> None:
    """``network.load_state_dict(weights)``, with errors of one line; a network on the meta device takes no memory.

    Raises:
        ValueError: names, shapes or dtypes are those of another network, or a value is not finite.
    """
    own = network.state_dict()
    for name, value in weights.items():
        if isinstance(value, Tensor) and isinstance(own.get(name), Tensor):
            check_values(name, value, own[name])
    try:
        network.load_state_dict(weights, assign=any(p.is_meta for p in network.parameters()))
    except RuntimeError as error:  # torch lists all misfits behind a headline; the first one is enough
        first = str(error).partition("\n")[2].strip().partition("\n")[0].partition(', "')[0]
        raise ValueError(first[:300] or str(error)[:300]) from None


def check_values(name: str, value: Tensor, own: Tensor) -> None:
    """Refuse another dtype, which copying would convert silently, and what is not finite.

    Raises:
        ValueError: naming the tensor.
    """
    if value.dtype != own.dtype:
        raise ValueError(f"{name} is {value.dtype} and not {own.dtype}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} is not finite")


@contextmanager
def must_fit(kind: type[NasError], key: str, place: object, remedy: str, whose: str = "") -> Iterator[None]:
    """Turn a ``ValueError`` about what a file holds into ``kind``, which names the file and the remedy."""
    try:
        yield
    except NasError:
        raise
    except ValueError as error:
        raise kind(key, place, f"{whose}does not fit the network ({error})", remedy) from None
