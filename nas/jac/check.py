"""Is this the Jacobian? Finite differences in float64 say, at columns drawn at random."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from nas.jac.differences import EXACT, largest_error, rms
from nas.jac.errors import JacobianError
from nas.jac.refuse import check_finite, check_input, check_modes, check_output


class HasDense(Protocol):
    """A Jacobian that can be written out, such as a ``FactoredJacobian``."""

    def dense(self) -> Tensor:
        """The Jacobian as a tensor."""


@dataclass(frozen=True)
class CheckResult:
    """What finite differences found.

    Attributes:
        error: the largest error of the entries judged, relative to the largest derivative of the same sample.
        sample: where that is: index into the batch.
        output: index into the sample's output.
        input: index into the sample's input.
        expected: the derivative there by differences, in outputs per input.
        found: the entry there of the Jacobian that was given.
        tolerance: the largest ``error`` with which the Jacobian passes.
        columns: how many of each sample's input entries were moved.
        inputs: how many it has.
        kinks: how many of the entries looked at are at a kink and were not judged.
    """

    error: float
    sample: int
    output: tuple[int, ...]
    input: tuple[int, ...]
    expected: float
    found: float
    tolerance: float
    columns: int
    inputs: int
    kinks: int

    def __bool__(self) -> bool:
        return self.ok

    @property
    def ok(self) -> bool:
        """Whether the Jacobian passes."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "agrees with" if self.ok else "DIFFERS FROM"
        kinks = f"; {self.kinks} entries are at a kink and not judged" if self.kinks else ""
        scale = abs(self.found - self.expected) / self.error if self.error else 0
        against = f" of {scale:.2g}" if scale else ""
        return (
            f"{verdict} finite differences: largest error {self.error:.1e}{against} (at most {self.tolerance:.1e}), "
            f"at sample {self.sample}, output {self.output}, input {self.input}: {self.found:.6g}, by differences "
            f"{self.expected:.6g}; {self.columns} of {self.inputs} columns{kinks}"
        )


def check(
    model_or_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    jac: Tensor | HasDense,
    columns: int = 16,
    seed: int = 0,
    tolerance: float | None = None,
) -> CheckResult:
    """Compare a Jacobian with central finite differences in float64, at random input entries.

    In each of ``columns`` random input entries ("columns" of the Jacobian) all samples are moved at once by
    ``h = eps ** (1 / 3) * max(|x|, rms)``, with ``eps`` of float64 and ``rms`` the root mean square of ``x`` (1 where
    that is 0): the step at which the truncation and the rounding of a central difference are about equal (Press et
    al., *Numerical Recipes*, 3rd edition, section 5.7). That costs two forward passes a column, or four where something
    is amiss; up to ``2 * log2(B) + 2`` more see to it that samples do not influence each other and nothing is drawn
    at random.

    It sees the columns that it looks at: a wrong entry elsewhere is found with ``columns`` as large as the input.

    An error is counted relative to the largest absolute derivative of its sample in the columns looked at, or to 1e6
    times what rounding does to a difference, where all derivatives are smaller than that.

    Where the slopes to both sides differ at a step 16 times finer, too, ``x`` is at a kink (ReLU, max pooling) and
    there is no one derivative to compare with: what the moved entry acts on is counted, not judged. A max pooling on
    an evenly black background has kinks everywhere; a little noise added to ``x`` takes them away.

    Refuses, with a :class:`JacobianError`: a function that does not run on float64 (one that closes over a float32
    module), gives no batch, or another type; samples that influence each other; what is drawn at random, as by a
    dropout in training mode; ``x`` or outputs that are not finite; a Jacobian of another shape than ``(B, *out, *in)``
    or with entries that are not finite.

    Args:
        model_or_fn: a module, of which a float64 copy is run (it is itself left as it is), or a function
            ``(B, *in) -> (B, *out)``, which is called with float64 input: what it closes over must take that.
        x: ``(B, *in)``, the point at which ``jac`` was computed.
        jac: ``(B, *out, *in)`` of any floating-point type, or an object with ``dense()``.
        columns: how many input entries are moved; all where there are no more than that.
        seed: of the generator that draws them.
        tolerance: the largest error that passes; by default the square root of the ``eps`` of ``jac``'s type, half
            of its digits, and at least 1e-6.

    Returns:
        The largest error and where it is.

    Raises:
        JacobianError: ``columns`` is not positive, or every entry looked at is at a kink.
    """
    check_input("x", x)
    check_modes(model_or_fn)
    if columns < 1:
        raise JacobianError("columns", columns, "must be at least 1", "use columns=16")
    point = x.detach().double()
    with torch.no_grad():
        function = _Float64(model_or_fn, len(x))
        base = function(point)
        given = _matrices(jac, point, base)
        _refuse_coupling(function, point, base)
        drawn = torch.randperm(given.shape[2], generator=torch.Generator().manual_seed(seed))[:columns]
        looked_at = given[:, :, drawn.to(given.device)]
        worst = largest_error(function, point, base.reshape(given.shape[:2]), looked_at, drawn)
    return CheckResult(
        error=worst.error,
        sample=worst.sample,
        output=_unravel(worst.row, base.shape[1:]),
        input=_unravel(worst.column, point.shape[1:]),
        expected=worst.expected,
        found=given[worst.sample, worst.row, worst.column].item(),
        tolerance=max(torch.finfo(given.dtype).eps ** 0.5, EXACT) if tolerance is None else tolerance,
        columns=len(drawn),
        inputs=given.shape[2],
        kinks=worst.kinks,
    )


class _Float64:
    # The function on float64 input; what it gives is checked.
    def __init__(self, model_or_fn: Callable[[Tensor], Tensor], batch: int) -> None:
        self.name, self.batch = getattr(model_or_fn, "__name__", type(model_or_fn).__name__), batch
        self.call = model_or_fn
        if isinstance(model_or_fn, nn.Module):
            try:
                self.call = copy.deepcopy(model_or_fn).double()
            except RuntimeError as error:  # it keeps a result of autograd, as the old weight_norm does
                rule = f"cannot be copied ({_first_line(error)})"
                raise JacobianError("model", self.name, rule, "pass a function of float64 input") from error

    def __call__(self, x: Tensor) -> Tensor:
        try:
            y = self.call(x.clone())  # it may work in place
        except RuntimeError as error:
            rule = f"does not run on float64 input {tuple(x.shape)} ({_first_line(error)})"
            raise JacobianError("model_or_fn", self.name, rule, "pass the module, or close over float64") from error
        y = check_output(y, self.batch)
        if y.dtype != torch.float64:
            rule = f"turns float64 input into {y.dtype}, which is too coarse for differences"
            raise JacobianError("model_or_fn", self.name, rule, "let it compute in the type of its input")
        check_finite("output", y, "what is given for float64 input", "check at another x")
        return y


def _matrices(jac: Tensor | HasDense, point: Tensor, base: Tensor) -> Tensor:
    # The Jacobian as (B, M, N), of the type that it has.
    dense = jac if isinstance(jac, Tensor) else jac.dense()
    expected = (*base.shape, *point.shape[1:])
    if tuple(dense.shape) != expected:
        rule = f"must be (B, *out, *in) = {expected}"
        raise JacobianError("jac", tuple(dense.shape), rule, "give the Jacobian of this function at this x")
    if not dense.is_floating_point() or dense.numel() == 0:
        rule = "must be of a real floating-point type and not empty"
        raise JacobianError("jac", f"{tuple(dense.shape)} {dense.dtype}", rule, "give the Jacobian itself")
    check_finite("jac", dense, "the Jacobian", "look for a step that has no derivative at x")
    return dense.detach().to(point.device).reshape(len(point), base[0].numel(), point[0].numel())


def _refuse_coupling(function: _Float64, point: Tensor, base: Tensor) -> None:
    # Any two samples differ in a bit of their indices: moving those with that bit shows whether one moves the other.
    rounding = 1e-10 * base.abs().max()
    if ((function(point) - base).abs() > rounding).any():
        rule = "gives something else when it is called again with the same input"
        raise JacobianError("model_or_fn", function.name, rule, "call model.eval(), or seed what it draws")
    noise = torch.randn(point.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = point + 1e-3 * rms(point) * noise.to(point.device)
    numbers = torch.arange(len(point), device=point.device)
    for bit in range((len(point) - 1).bit_length()):
        for side in (0, 1):
            still = (numbers >> bit) & 1 == side
            mixed = torch.where(still.view(-1, *[1] * (point.dim() - 1)), point, moved)
            change = (function(mixed) - base).abs().reshape(len(point), -1).amax(1)
            coupled = numbers[still & (change > rounding)].tolist()
            if coupled:
                rule = f"sample {coupled[0]} gives something else when other samples alone are moved"
                remedy = "let it treat each sample by itself (BatchNorm: call model.eval())"
                raise JacobianError("model_or_fn", function.name, rule, remedy)


def _unravel(index: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(index), shape))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
