"""What a network may do while its kernel is taken: no noise, and BatchNorm as the caller said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas.jac.errors import JacobianError
from nas.jac.refuse import check_modes, check_output, refuse_batch_statistics, uses_batch_statistics

BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""The arguments of ``F.batch_norm``, in order."""
MIXTURE = "normalises with running statistics, while statistics='batch' means the batch's own in every BatchNorm"


class _Statistics(TorchFunctionMode):
    """Watches every BatchNorm of a run; what a BatchNorm remembers of it is undone.

    Args:
        batch: whether they have to use the batch's statistics, or must not.
    """

    def __init__(self, batch: bool) -> None:
        super().__init__()
        self._batch = batch
        self._counted: list[tuple[Tensor, int]] = []

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            args, kwargs = (), dict(zip(BATCH_NORM, args, strict=False)) | kwargs
            if kwargs.get("training", False) and not self._batch:
                refuse_batch_statistics("F.batch_norm(training=True)")
            if not kwargs.get("training", False) and self._batch:
                raise JacobianError("model", "F.batch_norm(training=False)", MIXTURE, "call model.train() first")
            if self._batch:  # without them it computes the same and remembers nothing
                kwargs |= {"running_mean": None, "running_var": None}
        result = func(*args, **kwargs)
        if func is Tensor.add_ and result.dim() == 0 and result.dtype == torch.long and isinstance(args[1], int):
            self._counted.append(args)  # num_batches_tracked
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for counter, count in self._counted:
            counter.sub_(count)


def guarded(model: Callable[[Tensor], Tensor], x: Tensor, batch: bool) -> Callable[[Tensor], Tensor]:
    """``model`` as a function of a private copy of its input, under watch, with its outputs in a row.

    Refuses, with a :class:`JacobianError`, now or when it is called: dropout in training mode; a BatchNorm that takes
    statistics from the batch where ``batch`` is False, or from elsewhere where it is True; an output that is no batch.

    Args:
        model: module or function, ``(B, *in)`` to ``(B, *out)``.
        x: a tensor on the device of the inputs.
        batch: whether BatchNorm normalises with the batch's own statistics.

    Returns:
        ``(B, *in)`` to ``(B, M)``. A BatchNorm's running statistics and counter are as before after each call, also
        after one that ends in an error.
    """
    if batch:
        _check_training(model)
    else:
        check_modes(model)
    device = x.device.type
    mixed, lower = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def run(x: Tensor) -> Tensor:
        with _Statistics(batch), torch.autocast(device, lower, enabled=mixed, cache_enabled=False):
            return check_output(model(x.clone()), len(x)).reshape(len(x), -1)

    return run


@contextmanager
def exactly(x: Tensor) -> Iterator[None]:
    """A context in which kernels are made, whatever context the caller is in: tapes, no autocast.

    Args:
        x: a tensor on the device in question.

    Yields:
        Nothing. A function that :func:`guarded` made outside still runs in the caller's autocast.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        yield


def _check_training(model: object) -> None:
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        where = f"{name or 'model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not uses_batch_statistics(module):
            raise JacobianError("model", where, MIXTURE, "call model.train() first, or pass statistics='running'")
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            rule = "draws anew in training mode, so that the function has no fixed derivative"
            raise JacobianError("model", where, rule, "call .eval() on this dropout alone")


def summed_over_batch(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``fn`` on a whole batch as one sample, with one output for each sample of it.

    The kernel of that one sample's outputs is the kernel of the batch, whatever couples its samples.

    Args:
        fn: guarded function, ``(B, *in)`` to ``(B, M)``.

    Returns:
        ``(1, B, *in)`` to ``(1, B)``: the sums over the outputs.
    """

    def run(x: Tensor) -> Tensor:
        return fn(x[0]).sum(1).unsqueeze(0)

    return run


def draws_noise(fn: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, bool]:
    """``fn(x)``, and whether torch's random numbers were drawn on the way.

    Args:
        fn: any function.
        x: its input.

    Returns:
        The output; True where the state of the generator of ``x``'s device, or of the CPU's, is another one.
    """
    before = _generator_states(x)
    y = fn(x)
    drawn = any(not torch.equal(a, b) for a, b in zip(before, _generator_states(x), strict=True))
    return y, drawn


def _generator_states(x: Tensor) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(x.device)] if x.is_cuda else states
