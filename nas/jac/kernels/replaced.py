"""A function with other values for its parameters, and per-sample Jacobians by any parameters that this makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from nas.jac.kernels.record import read_tape
from nas.jac.refuse import Function


class Replacement(TorchFunctionMode):
    """While it is active, torch functions see ``values`` in place of ``tensors``, in modules and plain functions."""

    def __init__(self, tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
        super().__init__()
        self._values = {id(tensor): value for tensor, value in zip(tensors, values, strict=True)}

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return func(
            *map(self._replaced, args), **{name: self._replaced(value) for name, value in (kwargs or {}).items()}
        )

    def _replaced(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return self._values.get(id(argument), argument)
        return type(argument)(map(self._replaced, argument)) if type(argument) in (list, tuple) else argument


def run_with(fn: Function, tensors: Iterable[Tensor], values: Iterable[Tensor], x: Tensor) -> Tensor:
    """``fn(x)`` with ``values`` in place of ``tensors``."""
    with Replacement(tensors, values):
        return fn(x)


def vectorised_rows(fn: Function, chosen: Sequence[Tensor], x: Tensor, seeds: Tensor) -> Tensor:
    """Rows of each sample's Jacobian by the parameters ``chosen``, ``(B, S, P)``, for all samples at once."""

    def of_one(sample: Tensor) -> tuple[Tensor, ...]:
        _, pull, *_ = torch.func.vjp(lambda *values: run_with(fn, chosen, values, sample.unsqueeze(0))[0], *chosen)
        return tuple(torch.func.vmap(pull)(seeds))

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # no tape but vjp's own; the other kernels have no vmap
        return torch.cat([part.flatten(2) for part in torch.func.vmap(of_one)(x)], 2)


def vectorises(fn: Function, chosen: Sequence[Tensor], x: Tensor) -> bool:
    """Whether :func:`vectorised_rows` can do ``fn``: it sees all of ``chosen``, and torch has a rule for everything."""
    y = run_with(fn, chosen, [leaf.detach() for leaf in chosen], x)
    if not read_tape(y)[0].keys().isdisjoint(chosen):  # used in a torch.autograd.Function, or before ``fn``
        return False
    try:
        vectorised_rows(fn, chosen, x, torch.ones_like(y[:1]))
    except RuntimeError:  # as for recurrent layers, and for values that are read into Python
        return False
    return True


def rows_one_by_one(fn: Function, chosen: Sequence[Tensor], x: Tensor, seeds: Tensor) -> Tensor:
    """:func:`vectorised_rows` sample after sample, on the parameters themselves: slower, and good for any function."""
    rows = []
    for sample in x:
        y = fn(sample.unsqueeze(0))
        for seed in seeds:  # the tape is kept, since it may reach back to before this function
            parts = torch.autograd.grad((y * seed).sum(), chosen, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows).unflatten(0, (len(x), len(seeds)))
