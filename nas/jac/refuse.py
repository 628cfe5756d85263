"""What must hold of inputs, networks and results; each check costs microseconds when all is well."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas.jac.errors import JacobianError

CHUNK_BYTES = 2**28
"""Default budget for the directions that are under way at once: 256 MiB."""
GRAM_BYTES = 2**23
"""The same for Gram products by the input, whose results are small: 8 MiB."""

SLOPES = "look for infinite slopes, such as sqrt at 0, and weights"
WEIGHTS = "look at the network's weights"
"""Remedies for what is not finite."""


def check_input(name: str, x: Tensor) -> None:
    """Refuse what is no batch of finite floating-point samples.

    Args:
        name: what the caller calls it.
        x: ``(B, ...)``.

    Raises:
        JacobianError: ``x`` is no tensor, not of a real floating-point type, has no batch dimension, no
            sample or no entry, or holds a number that is not finite (the first place is named).
    """
    if not isinstance(x, Tensor):
        raise JacobianError(name, type(x).__name__, "must be a tensor (B, ...)", "pass torch.as_tensor(...)")
    if not x.is_floating_point():
        rule = "must be of a real floating-point type: there is no derivative by integers"
        raise JacobianError(name, x.dtype, rule, f"pass {name}.float() or {name}.double()")
    if x.dim() < 1 or x.numel() == 0:
        rule = "must be a batch (B, ...) of at least one sample with at least one entry"
        raise JacobianError(name, tuple(x.shape), rule, "pass a single sample as x.unsqueeze(0)")
    check_finite(name, x, "the input", "mend or drop this sample")


def check_finite(name: str, x: Tensor, what: str, remedy: str) -> None:
    """Refuse numbers that are not finite, and name the first place.

    The sum is finite for nearly every finite tensor and never for another one, so the search is rarely made.

    Args:
        name: what the caller calls it.
        x: any shape.
        what: what it is, for the message.
        remedy: what to do.

    Raises:
        JacobianError: an entry is infinite or NaN.
    """
    if math.isfinite((x.detach() if x.requires_grad else x).sum().item()):
        return
    bad = ~torch.isfinite(x.detach())
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        rule = f"{what} has {int(bad.sum())} entries that are not finite, the first at {place}"
        raise JacobianError(name, x[place].item(), rule, remedy)


def check_output(y: object, batch: int) -> Tensor:
    """``y`` if it is a batch of ``batch`` floating-point outputs.

    Args:
        y: what the network gave.
        batch: number of samples that went in.

    Returns:
        ``y`` itself.

    Raises:
        JacobianError: it is something else.
    """
    if not isinstance(y, Tensor):
        raise JacobianError("output", type(y).__name__, "must be one tensor (B, ...)", "return a single tensor")
    if not y.is_floating_point():
        raise JacobianError("output", y.dtype, "must be of a real floating-point type", "return scores, not indices")
    if y.dim() < 1 or y.shape[0] != batch:
        rule = f"must have the batch first: {batch} samples went in"
        remedy = "return (B, ...), one output for each sample; pass a single sample as x.unsqueeze(0)"
        raise JacobianError("output", tuple(y.shape), rule, remedy)
    if y.numel() == 0:
        raise JacobianError("output", tuple(y.shape), "must have at least one entry", "return (B, ...)")
    return y


def check_modes(model: object) -> None:
    """Refuse a module in which samples couple or noise is drawn; plain functions pass.

    Refuses, with a :class:`JacobianError`: a BatchNorm that takes statistics from the batch, a dropout that drops.

    Args:
        model: module or function.
    """
    if not isinstance(model, nn.Module):
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and uses_batch_statistics(module):
            refuse_batch_statistics(f"{name or 'model'} ({type(module).__name__})")
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            refuse_dropout(f"{name or 'model'} ({type(module).__name__})")


def uses_batch_statistics(module: nn.modules.batchnorm._BatchNorm) -> bool:
    """Whether a BatchNorm normalises with the statistics of the batch that it is given.

    Args:
        module: any BatchNorm.

    Returns:
        True in training mode, and where no running statistics are kept.
    """
    return module.training or module.running_mean is None


def refuse_batch_statistics(where: str) -> None:
    """Say that samples couple.

    Args:
        where: the module or function that couples them.

    Raises:
        JacobianError: always.
    """
    rule = "couples the samples of a batch in training mode, so that no sample has a Jacobian of its own"
    raise JacobianError("model", where, rule, "call model.eval() first")


def refuse_dropout(where: str) -> None:
    """Say that noise is drawn.

    Args:
        where: the module or function that draws it.

    Raises:
        JacobianError: always.
    """
    rule = "draws anew in training mode, so that the function has no fixed derivative"
    raise JacobianError("model", where, rule, "call model.eval() first")


def check_apart(pulled: Callable[[Tensor], Tensor], y: Tensor) -> None:
    """Refuse a function that mixes samples, for two directions more.

    Args:
        pulled: from cotangents ``(B, M)`` to ``(B, *in)``.
        y: its output ``(B, M)``.

    Raises:
        JacobianError: outputs of one half of the batch depend on inputs of the other half.
    """
    half = len(y) // 2
    weights = torch.arange(1, y[0].numel() + 1, dtype=y.dtype, device=y.device).cos()  # no entry cancels another
    for own, other in ((slice(half), slice(half, None)), (slice(half, None), slice(half))) if half else ():
        cotangents = torch.zeros_like(y)
        cotangents[own] = weights
        strange = pulled(cotangents)[other]
        if ((strange != 0) & ~strange.isnan()).any():
            rule = "mixes the samples of a batch, so that no sample has a Jacobian of its own"
            remedy = "make each output a function of its own sample; pass a single sample as x.unsqueeze(0)"
            raise JacobianError("model", "output", rule, remedy)


def undo_count(error: BaseException) -> None:
    """Take back the batch that a BatchNorm has counted before it was refused.

    ``nn.BatchNorm`` counts before it calls the function that is watched; its frame is in the error's traceback.

    Args:
        error: what was raised inside the model.
    """
    running = {id(module): module for module in modules_at(error)}  # it has several frames
    for module in running.values():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.num_batches_tracked is not None:
            module.num_batches_tracked.sub_(1)


def modules_at(error: BaseException) -> list[nn.Module]:
    """The modules that were running when an error was raised.

    Args:
        error: with its traceback.

    Returns:
        From the outermost to the innermost.
    """
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = [local.get("self", local.get("model")) for local in frames]
    return [module for module in found if isinstance(module, nn.Module)]
