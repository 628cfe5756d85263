"""What a plan replays: calls of torch functions into memory that is there already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor


class _Noted(threading.local):
    steps: list[partial[Tensor]] | None = None
    """Where this thread notes its steps; None while it records no plan."""


_noted = _Noted()


def step(function: Callable[..., Tensor], *args: object, **kwargs: object) -> Tensor:
    """``function(*args, **kwargs)``; a plan that is being recorded computes it again into the memory of the result.

    The function takes ``out=``. Tensors among the arguments are parameters, constants, or made by steps or views of
    what steps made: memory in which a replay finds the values of its own call.
    """
    result = function(*args, **kwargs)
    if _noted.steps is not None:
        _noted.steps.append(partial(function, *args, **kwargs, out=result))
    return result


@contextmanager
def noting() -> Iterator[list[partial[Tensor]]]:
    """While it is active, steps of this thread are noted in the list that it gives."""
    before, _noted.steps = _noted.steps, []
    try:
        yield _noted.steps
    finally:
        _noted.steps = before
