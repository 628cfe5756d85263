"""What must hold of inputs, networks and outputs; each check costs microseconds when all is well."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from nas.jac.errors import JacobianError

CHUNK_BYTES, GRAM_BYTES = 2**28, 2**23  # for the directions under way at once; for Gram products, of small results
SLOPES, WEIGHTS = "look for infinite slopes, such as sqrt at 0, and weights", "look at the network's weights"


def check_real(name: str, value: object, remedy: str) -> Tensor:
    """``value``, if it is a tensor of real floating-point numbers."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise JacobianError(name, found, "must be a tensor of a real floating-point type", remedy)
    return value


def check_finite(name: str, x: Tensor, what: str, remedy: str) -> None:
    """Refuse numbers that are not finite, and name the first place."""
    # The sum is finite for nearly every finite tensor and never for another one, so the search is rarely made.
    if not math.isfinite(x.sum().item()) and len(places := (~x.isfinite()).nonzero()):
        place = tuple(places[0].tolist())
        rule = f"{what} has {len(places)} entries that are not finite, the first at {place}"
        raise JacobianError(name, x[place].item(), rule, remedy)


def check_input(name: str, x: Tensor) -> None:
    """Refuse what is no batch ``(B, ...)`` of finite floating-point samples."""
    if not isinstance(x, Tensor):
        raise JacobianError(name, type(x).__name__, "must be a tensor (B, ...)", "pass torch.as_tensor(...)")
    if not x.is_floating_point():
        rule = "must be of a real floating-point type: there is no derivative by integers"
        raise JacobianError(name, x.dtype, rule, f"pass {name}.float() or {name}.double()")
    if x.dim() < 1 or x.numel() == 0:
        rule = "must be a batch (B, ...) of at least one sample with at least one entry"
        raise JacobianError(name, tuple(x.shape), rule, "pass a single sample as x.unsqueeze(0)")
    check_finite(name, x, "the input", "mend or drop this sample")


def check_output(y: object, batch: int) -> Tensor:
    """``y``, if it is a batch of ``batch`` floating-point outputs."""
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


def check_apart(pulled: Callable[[Tensor], Tensor], y: Tensor) -> None:
    """Refuse mixed samples by ``pulled``, from cotangents like ``y``, ``(B, ...)``, to ``(B, ...)``: two directions."""
    weights = torch.arange(1, y[0].numel() + 1, dtype=y.dtype, device=y.device).cos().view_as(y[0])  # none cancel
    first = torch.arange(len(y), device=y.device) < len(y) // 2
    for own in (first, ~first) if len(y) > 1 else ():
        if pulled(torch.where(own.view(-1, *[1] * (y.dim() - 1)), weights, 0.0))[~own].nan_to_num().any():
            rule = "mixes the samples of a batch, so that no sample has a Jacobian of its own"
            remedy = "make each output a function of its own sample; pass a single sample as x.unsqueeze(0)"
            raise JacobianError("model", "output", rule, remedy)


def check_square(outputs: int, inputs: int) -> None:
    """Refuse a Jacobian that has no determinant."""
    if outputs != inputs:
        rule = f"must be square to have a determinant: the network has {outputs} outputs for {inputs} inputs"
        raise JacobianError("jacobian", (outputs, inputs), rule, "use gram(model, x, x)")


def check_modes(model: object, batch: bool = False) -> None:
    """Refuse a module with a dropout that drops, or a BatchNorm without the batch's statistics, or with them."""
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        where = f"{name or 'model'} ({type(module).__name__})"
        if isinstance(module, _BatchNorm):
            check_statistics(where, module.training or module.running_mean is None, batch)
        elif isinstance(module, _DropoutNd) and module.training and module.p > 0:
            refuse_noise(where, "call .eval() on this dropout alone" if batch else "call model.eval() first")


def check_statistics(where: str, training: bool, batch: bool = False) -> None:
    """Refuse a BatchNorm that normalises with a batch's statistics, where ``batch`` are wanted, without them."""
    if training and not batch:
        rule = "couples the samples of a batch in training mode, so that no sample has a Jacobian of its own"
        raise JacobianError("model", where, rule, "call model.eval() first")
    if batch and not training:
        rule = "normalises with running statistics, while statistics='batch' means the batch's own in every BatchNorm"
        raise JacobianError("model", where, rule, "call model.train() first, or pass statistics='running'")


def refuse_noise(where: str, remedy: str = "call model.eval() first") -> NoReturn:
    """Say that random numbers are drawn."""
    raise JacobianError("model", where, "draws random numbers, so that it has no fixed derivative", remedy)


def undo_count(error: BaseException) -> None:
    """Take back the batch that an ``nn.BatchNorm`` has counted before it was refused."""
    for module in modules_at(error)[-1:]:  # the innermost
        counter: Tensor | None = getattr(module, "num_batches_tracked", None)
        if counter is not None and module.training and module.track_running_stats:
            counter.sub_(1)


def modules_at(error: BaseException) -> list[nn.Module]:
    """The modules that were running when an error was raised, from the outermost to the innermost."""
    frames = (frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__))
    return [one for own in frames if isinstance(one := own.get("self", own.get("model")), nn.Module)]
