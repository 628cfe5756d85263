"""What must hold of inputs, networks, their runs and outputs; each check costs microseconds when all is well."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from nas.jac.errors import JacobianError

Function = Callable[[Tensor], Tensor]

CHUNK_BYTES, GRAM_BYTES = 2**28, 2**23  # for the directions under way at once; for Gram products, of small results
SLOPES, WEIGHTS = "look for infinite slopes, such as sqrt at 0, and weights", "look at the network's weights"
RUNNING = {F.batch_norm: (1, 2), torch.batch_norm: (3, 4)}  # places of the running statistics
NORMS = {"layer_norm", "native_layer_norm", "instance_norm"}  # torch 2.14 does not differentiate their tangents right


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


def check_apart(pulled: Function, y: Tensor) -> None:
    """Refuse mixed samples by ``pulled``, from cotangents like ``y``, ``(B, ...)``, to ``(B, ...)``: two directions."""
    weights = torch.arange(1, y[0].numel() + 1, dtype=y.dtype, device=y.device).cos().view_as(y[0])  # none cancel
    halves = slice(len(y) // 2), slice(len(y) // 2, None)
    for own, other in (halves, halves[::-1]) if len(y) > 1 else ():
        cotangent = torch.zeros_like(y)
        cotangent[own] = weights
        if pulled(cotangent)[other].nan_to_num().any():
            rule = "mixes the samples of a batch, so that no sample has a Jacobian of its own"
            remedy = "make each output a function of its own sample; pass a single sample as x.unsqueeze(0)"
            raise JacobianError("model", "output", rule, remedy)


def check_square(outputs: int, inputs: int) -> None:
    """Refuse a Jacobian that has no determinant."""
    if outputs != inputs:
        rule = f"must be square to have a determinant: the network has {outputs} outputs for {inputs} inputs"
        raise JacobianError("jacobian", (outputs, inputs), rule, "use gram(model, x, x)")


def check_callable(model: object) -> None:
    """Refuse what is no network."""
    if not callable(model):
        raise JacobianError("model", type(model).__name__, "must be a module or a function", "pass an nn.Module")


def check_modes(model: object, batch: bool = False) -> None:
    """Refuse a module with a dropout that drops, or a BatchNorm without the batch's statistics, or with them."""
    check_callable(model)
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


def guarded(model: Function, x: Tensor, batch: bool = False, forward_tape: bool = False, flat: bool = True) -> Function:
    """``model`` under a :class:`Watch`, in the caller's autocast, for inputs like ``x``; ``(B, M)`` if ``flat``."""
    check_modes(model, batch)
    device = x.device.type
    mixed, lower = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def run(x: Tensor) -> Tensor:
        with Watch(batch, forward_tape), torch.autocast(device, lower, cache_enabled=False) if mixed else nullcontext():
            y = model(x.clone())  # a copy, since a model may work in place
        y = check_output(y, len(x))  # outside, where no function is seen
        return y.reshape(len(x), -1) if flat else y

    return run


def without_noise(fn: Function, x: Tensor) -> Tensor:
    """``fn(x)``; refused where torch's random numbers, of the CPU or of ``x``'s GPU, were drawn on the way."""

    def states() -> list[Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])]

    before, y = states(), fn(x)
    if not all(map(torch.equal, before, states())):
        refuse_noise("output", "call model.eval() first, or draw them outside")
    return y


class Watch(TorchFunctionMode):
    """Refuses BatchNorms that normalise with the batch's statistics, or with others; takes back what they count."""

    def __init__(self, batch: bool, forward_tape: bool) -> None:
        super().__init__()
        self._batch, self._forward_tape = batch, forward_tape
        self._counted: list[tuple[Tensor, int]] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in RUNNING:
            training = bool(kwargs.get("training", args[5] if len(args) > 5 else False))
            check_statistics(f"F.batch_norm(training={training})", training, self._batch)
            if self._batch:  # without them it computes the same and remembers nothing
                args = tuple(None if place in RUNNING[func] else value for place, value in enumerate(args))
                kwargs = kwargs | dict.fromkeys(kwargs.keys() & {"running_mean", "running_var"})
        if self._forward_tape and getattr(func, "__name__", "") in NORMS:
            rule = f"{func.__name__}'s forward-mode derivative cannot be differentiated"
            raise JacobianError("create_graph", True, rule, "use mode='layerwise' or mode='reverse'")
        result = func(*args, **kwargs)
        if func is Tensor.add_ and result.dim() == 0 and result.dtype == torch.long and isinstance(args[-1], int):
            self._counted.append(args)  # num_batches_tracked
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for counter, count in self._counted:
            counter.sub_(count)


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
