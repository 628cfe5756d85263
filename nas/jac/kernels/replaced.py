"""A function with other values for its parameters, and per-sample Jacobians by any parameters that this makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from nas.jac.kernels.record import vjp
from nas.jac.watch import Function


class Replacement(TorchFunctionMode):
    """While it is active, torch functions see ``values`` in place of ``tensors``, in modules and plain functions."""

    def __init__(self, tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
        super().__init__()
        self._values: Mapping[int, Tensor] = {id(tensor): value for tensor, value in zip(tensors, values, strict=True)}

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = {name: self._replaced(value) for name, value in (kwargs or {}).items()}
        return func(*map(self._replaced, args), **kwargs)

    def _replaced(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return self._values.get(id(argument), argument)
        if type(argument) in (list, tuple):
            return type(argument)(map(self._replaced, argument))
        return argument


def run_with(fn: Function, tensors: Iterable[Tensor], values: Iterable[Tensor], x: Tensor) -> Tensor:
    """``fn(x)`` with ``values`` in place of ``tensors``."""
    with Replacement(tensors, values):
        return fn(x)


def detached(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The values of ``tensors``, sharing their memory."""
    return tuple(torch.Tensor.detach(tensor) for tensor in tensors)


def vectorised_rows(fn: Function, chosen: Sequence[Tensor], rest: Sequence[Tensor], x: Tensor, seeds: Tensor) -> Tensor:
    """Rows of each sample's Jacobian by the parameters ``chosen``, ``(B, S, P)``, for all samples at once."""
    still, tensors = detached(rest), (*chosen, *rest)

    def of_one(sample: Tensor) -> Sequence[Tensor]:
        def output(*values: Tensor) -> Tensor:
            return run_with(fn, tensors, (*values, *still), sample.unsqueeze(0))[0]

        pull = torch.func.vjp(output, *detached(chosen))[1]
        rows: Sequence[Tensor] = torch.func.vmap(pull)(seeds)
        return rows

    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be vectorised
        return torch.cat([part.flatten(2) for part in torch.func.vmap(of_one)(x)], 2)


def vectorises(fn: Function, chosen: Sequence[Tensor], rest: Sequence[Tensor], x: Tensor) -> bool:
    """Whether :func:`vectorised_rows` can do ``fn``, found by trying.

    Parameters have to be in sight: with all of them replaced by values without a tape, the output must have none. It
    has one where a parameter is used inside a ``torch.autograd.Function``, or before ``fn``. And torch has no rule for
    everything: not for recurrent layers, for one, nor for values that are read into Python.
    """
    tensors = (*chosen, *rest)
    y = run_with(fn, tensors, detached(tensors), x)
    if y.requires_grad:
        return False
    try:
        vectorised_rows(fn, chosen, rest, x, torch.ones_like(y[:1]))
    except RuntimeError:
        return False
    return True


def rows_one_by_one(fn: Function, chosen: Sequence[Tensor], x: Tensor, seeds: Tensor) -> Tensor:
    """:func:`vectorised_rows` sample after sample, on the parameters themselves: slower, and good for any function."""
    rows = [leaf.new_zeros((len(x), len(seeds), *leaf.shape)) for leaf in detached(chosen)]
    for i in range(len(x)):
        y = fn(x[i : i + 1])
        for s, seed in enumerate(seeds):
            # The tape is kept: it may reach back to before this function.
            for row, gradient in zip(rows, vjp(y, seed, chosen, keep=True), strict=True):
                if gradient is not None:
                    row[i, s] = gradient
    return torch.cat([part.flatten(2) for part in rows], 2)
