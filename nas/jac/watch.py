"""A network's run under watch: samples stay apart or share one batch's statistics, no noise, and no trace is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nas.jac.errors import JacobianError
from nas.jac.refuse import check_modes, check_output, check_statistics, refuse_noise

Function = Callable[[Tensor], Tensor]

RUNNING = {F.batch_norm: (1, 2), torch.batch_norm: (3, 4)}  # places of the running statistics
NORMS = {"layer_norm", "native_layer_norm", "instance_norm"}  # torch 2.14 does not differentiate their tangents right


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


@contextmanager
def exactly(x: Tensor) -> Iterator[None]:
    """Whatever context the caller is in: tapes, and no autocast on ``x``'s device outside of what is guarded."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        yield
