"""What a plan replays: calls of torch functions into memory that is there already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor


class _Noted(threading.local):
    steps: list[partial] | None = None  # of the plan that this thread records


_noted = _Noted()


def step(function: Callable[..., Tensor], *args: object, **kwargs: object) -> Tensor:
    """``function(*args, **kwargs)``, which takes ``out=``; a plan computes it again into the memory of the result.

    Tensors among the arguments are parameters, constants, or made by steps or views of what steps made.
    """
    result = function(*args, **kwargs)
    if _noted.steps is not None:
        _noted.steps.append(partial(function, *args, **kwargs, out=result))
    return result


def note(function: Callable[..., object], *args: object, **kwargs: object) -> None:
    """Let a plan call this where the recording call has got the same result another way."""
    if _noted.steps is not None:
        _noted.steps.append(partial(function, *args, **kwargs))


def is_noting() -> bool:
    """Whether a plan is being recorded in this thread."""
    return _noted.steps is not None


def cannot_be_replayed() -> None:
    """Say that something was computed outside of steps: what is recorded makes no plan."""
    _noted.steps = None


def viewed(tensor: Tensor, *shape: int) -> Tensor:
    """``tensor.reshape(shape)``; where that takes a copy, no plan is made, since a replay would not make it again."""
    result = tensor.reshape(shape)
    if _noted.steps is not None and result.data_ptr() != tensor.data_ptr():
        _noted.steps = None
    return result


@contextmanager
def noting() -> Iterator[list[partial]]:
    """While it is active, steps of this thread are noted; the list is empty at the end if they make no plan."""
    steps = _noted.steps = []
    try:
        yield steps
        if _noted.steps is None:
            steps.clear()
    finally:
        _noted.steps = None
