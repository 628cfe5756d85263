"""Per-sample Jacobians with respect to any parameters, by replacing them under torch.func's transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from nas.jac.kernels.parameters import detached, pulled, run_with


def vectorised_rows(
    fn: Callable[[Tensor], Tensor], chosen: Sequence[Tensor], rest: Sequence[Tensor], x: Tensor, seeds: Tensor
) -> Tensor:
    """Rows of each sample's Jacobian with respect to some parameters, for all samples at once.

    Args:
        fn: guarded function, ``(B, *in)`` to ``(B, M)``.
        chosen: parameters.
        rest: the other parameters that ``fn`` uses.
        x: ``(B, *in)``.
        seeds: ``(S, M)``, directions in the space of outputs.

    Returns:
        ``(B, S, P)`` with the parameters' entries side by side.
    """
    still, tensors = detached(rest), (*chosen, *rest)

    def of_one(sample: Tensor) -> Sequence[Tensor]:
        def output(*values: Tensor) -> Tensor:
            return run_with(fn, tensors, (*values, *still), sample.unsqueeze(0))[0]

        pull = vjp(output, *detached(chosen))[1]
        rows: Sequence[Tensor] = vmap(pull)(seeds)
        return rows

    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be vectorised
        return _side_by_side(vmap(of_one)(x))


def vectorises(fn: Callable[[Tensor], Tensor], chosen: Sequence[Tensor], rest: Sequence[Tensor], x: Tensor) -> bool:
    """Whether :func:`vectorised_rows` can do ``fn``, found by trying.

    Parameters have to be in sight: with all of them replaced by values without a tape, the output must have none. It
    has one where a parameter is used inside a ``torch.autograd.Function``, or before ``fn``. And torch has no rule for
    everything: not for recurrent layers, for one, nor for values that are read into Python.

    Args:
        fn: guarded function, ``(B, *in)`` to ``(B, M)``.
        chosen: parameters.
        rest: the other parameters that ``fn`` uses.
        x: ``(B, *in)``, a few samples.

    Returns:
        False where a parameter is out of sight, or torch has no rule for an operation.
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


def rows_one_by_one(fn: Callable[[Tensor], Tensor], chosen: Sequence[Tensor], x: Tensor, seeds: Tensor) -> Tensor:
    """:func:`vectorised_rows` sample after sample, on the parameters themselves: slower, and good for any function.

    Args:
        fn: guarded function, ``(B, *in)`` to ``(B, M)``.
        chosen: parameters.
        x: ``(B, *in)``.
        seeds: ``(S, M)``, directions in the space of outputs.

    Returns:
        ``(B, S, P)`` with the parameters' entries side by side.
    """
    rows = [leaf.new_zeros((len(x), len(seeds), *leaf.shape)) for leaf in detached(chosen)]
    for i in range(len(x)):
        y = fn(x[i : i + 1])
        for s, seed in enumerate(seeds):
            # The tape is kept: it may reach back to before this function.
            for row, gradient in zip(rows, pulled(y, seed, chosen, keep=True), strict=True):
                if gradient is not None:
                    row[i, s] = gradient
    return _side_by_side(rows)


def _side_by_side(rows: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten(2) for part in rows], 2)
