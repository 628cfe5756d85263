"""Is this the Jacobian? Central differences in float64 at columns drawn at random, which tell kinks from curvature."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.jac.errors import JacobianError
from nas.jac.factored import FactoredJacobian
from nas.jac.refuse import check_finite, check_input, check_modes, check_output
from nas.jac.watch import Function

EPS = torch.finfo(torch.float64).eps
EXACT, BENT = 1e-6, 2e-5
"""Shares of the scale: errors, and differences between the slopes to both sides, that are not looked into."""


@dataclass(frozen=True)
class CheckResult:
    """What finite differences found.

    Attributes:
        error: the largest error of the entries judged, relative to the largest derivative of the same sample.
        sample, output, input: where that is: indices into the batch, the sample's output and its input.
        expected, found: the derivative there, in outputs per input, by differences and in the Jacobian given.
        tolerance: the largest ``error`` with which the Jacobian passes.
        columns, inputs: how many of each sample's input entries were moved, and how many it has.
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
        against = f" of {abs(self.found - self.expected) / self.error:.2g}" if self.error else ""
        return (
            f"{verdict} finite differences: largest error {self.error:.1e}{against} (at most {self.tolerance:.1e}), "
            f"at sample {self.sample}, output {self.output}, input {self.input}: {self.found:.6g}, by differences "
            f"{self.expected:.6g}; {self.columns} of {self.inputs} columns{kinks}"
        )


def check(
    model_or_fn: Function,
    x: Tensor,
    jac: Tensor | FactoredJacobian,
    columns: int = 16,
    seed: int = 0,
    tolerance: float | None = None,
) -> CheckResult:
    """Compare a Jacobian with central finite differences in float64, at random input entries.

    In each of ``columns`` random input entries ("columns" of the Jacobian) all samples are moved at once by
    ``eps ** (1 / 3) * max(|x|, rms)``, with ``eps`` of float64 and ``rms`` the root mean square of ``x`` (1 where that
    is 0): there truncation and rounding of a central difference are about equal (Press et al., *Numerical Recipes*, 3rd
    edition, section 5.7). That costs two forward passes a column, or four where something is amiss; up to
    ``2 * log2(B) + 2`` more see to it that samples do not influence each other and nothing is drawn at random.

    An error is counted relative to the largest absolute derivative of its sample in the columns looked at, or to 1e6
    times what rounding does to a difference, where all are smaller than that. Where the slopes to both sides differ at
    a step 16 times finer, too, ``x`` is at a kink (ReLU, max pooling on an evenly black background): what the moved
    entry acts on is counted, not judged. A little noise added to ``x`` takes kinks away.

    Args:
        model_or_fn: a module, of which a float64 copy is run (it is itself left as it is), or a function
            ``(B, *in) -> (B, *out)``, which is called with float64 input: what it closes over must take that.
        x: ``(B, *in)``, the point at which ``jac`` was computed.
        jac: ``(B, *out, *in)`` of any floating-point type, or an object with ``dense()``.
        columns: how many input entries are moved, at most all; a wrong entry in another column is not seen.
        seed: of the generator that draws them.
        tolerance: the largest error that passes; by default the square root of ``jac``'s ``eps``, and at least 1e-6.

    Returns:
        The largest error and where it is.

    Raises:
        JacobianError: the function does not run on float64 (it closes over a float32 module), gives no batch or
            another type; samples influence each other, or something is drawn at random; ``x``, outputs or ``jac`` are
            not finite; ``jac`` has another shape; ``columns`` is not positive; every entry looked at is at a kink.
    """
    check_input("x", x)
    check_modes(model_or_fn)
    if columns < 1:
        raise JacobianError("columns", columns, "must be at least 1", "use columns=16")
    point = x.detach().double().reshape(len(x), -1)
    steps = EPS ** (1 / 3) * point.abs().clamp_min(point.square().mean().sqrt().item() or 1.0)
    with torch.no_grad():
        function = _Float64(model_or_fn, x.shape)
        base = function(point)
        given = _matrix(jac, (*function.out, *x.shape[1:]), base)
        _refuse_coupling(function, point, base, steps)
        drawn = torch.randperm(given.shape[2], generator=torch.Generator().manual_seed(seed))[:columns]
        errors, slopes = _compare(function, point, base, steps, given, drawn.tolist())
    kinks = int((errors < 0).sum())
    if kinks == errors.numel():
        rule = f"every one of the {kinks} entries looked at is at a kink, where there is no derivative"
        raise JacobianError("x", tuple(x.shape), rule, "add a little noise to x and compute both anew")
    sample, row, number = worst = _unravel(int(errors.argmax()), errors.shape)
    column = int(drawn[number])
    return CheckResult(
        error=errors[worst].item(),
        sample=sample,
        output=_unravel(row, function.out[1:]),
        input=_unravel(column, x.shape[1:]),
        expected=slopes[worst].item(),
        found=given[sample, row, column].item(),
        tolerance=max(torch.finfo(given.dtype).eps ** 0.5, EXACT) if tolerance is None else tolerance,
        columns=len(drawn),
        inputs=given.shape[2],
        kinks=kinks,
    )


class _Float64:
    """The function, or a copy of the module, from ``(B, N)`` to ``(B, M)`` in float64; what it gives is checked."""

    def __init__(self, model_or_fn: Function, shape: torch.Size) -> None:
        self.name, self.call = getattr(model_or_fn, "__name__", type(model_or_fn).__name__), model_or_fn
        self.shape = self.out = shape
        if isinstance(model_or_fn, nn.Module):
            try:
                self.call = copy.deepcopy(model_or_fn).double()
            except RuntimeError as error:  # it keeps a result of autograd, as the old weight_norm does
                raise self.error("cannot be copied", "pass a function of float64 input", error) from error

    def error(self, rule: str, remedy: str, cause: RuntimeError | None = None) -> JacobianError:
        rule += " (" + str(cause).strip().partition("\n")[0] + ")" if cause else ""
        return JacobianError("model_or_fn", self.name, rule, remedy)

    def __call__(self, x: Tensor) -> Tensor:
        try:
            y = check_output(self.call(x.clone().view(self.shape)), len(x))  # it may work in place
        except RuntimeError as error:
            rule = f"does not run on float64 input {tuple(self.shape)}"
            raise self.error(rule, "pass the module, or close over float64", error) from error
        if y.dtype != torch.float64:
            rule = f"turns float64 input into {y.dtype}, which is too coarse for differences"
            raise self.error(rule, "let it compute in the type of its input")
        check_finite("output", y, "what is given for float64 input", "check at another x")
        self.out = y.shape
        return y.reshape(len(x), -1)


def _matrix(jac: Tensor | FactoredJacobian, shape: tuple[int, ...], base: Tensor) -> Tensor:
    """The Jacobian, which must have that shape, as ``(B, M, N)``, of the type that it has."""
    dense = jac if isinstance(jac, Tensor) else jac.dense()
    if tuple(dense.shape) != shape:
        rule = f"must be (B, *out, *in) = {shape}"
        raise JacobianError("jac", tuple(dense.shape), rule, "give the Jacobian of this function at this x")
    if not dense.is_floating_point():
        raise JacobianError("jac", dense.dtype, "must be of a real floating-point type", "give the Jacobian itself")
    check_finite("jac", dense, "the Jacobian", "look for a step that has no derivative at x")
    return dense.detach().to(base.device).reshape(*base.shape, -1)


def _refuse_coupling(function: _Float64, point: Tensor, base: Tensor, steps: Tensor) -> None:
    # Any two samples differ in a bit of their indices: moving those with that bit shows whether one moves the other.
    rounding = 1e-10 * base.abs().max()
    noise = torch.randn(point.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = point + 200 * steps * noise.to(point.device)  # by about a thousandth
    numbers = torch.arange(len(point), device=point.device)
    halves = [(numbers >> bit) & 1 == side for bit in range((len(point) - 1).bit_length()) for side in (0, 1)]
    for still in (numbers >= 0, *halves):
        change = (function(torch.where(still[:, None], point, moved)) - base).abs().amax(1)
        if changed := numbers[still & (change > rounding)].tolist():
            when = "it is called again with the same input" if still.all() else "other samples alone are moved"
            remedy = "call model.eval(), let each sample be treated by itself, seed what is drawn"
            raise function.error(f"gives something else for sample {changed[0]} when {when}", remedy)


def _compare(function: Function, point: Tensor, base: Tensor, steps: Tensor, given: Tensor, columns: list) -> Tensor:
    """Errors ``(B, M, C)`` of some columns as shares of their samples' scales, -1 at kinks; and the slopes."""
    given = given[:, :, columns].double()
    largest = given.abs().amax((1, 2)).clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    found = []
    for entries, column in zip(given.unbind(2), columns, strict=True):
        step = steps[:, column]
        slope, bend = _slopes(function, point, base, column, step)
        seen = EPS / EXACT * base.abs().amax(1, keepdim=True) / step[:, None]  # smaller ones drown in rounding
        scale = slope.abs().amax(1, keepdim=True).maximum(largest).maximum(seen)
        errors, bent = (entries - slope).abs() / scale, bend > BENT * scale
        if (again := bent | (errors > EXACT)).any():
            finer, still = _slopes(function, point, base, column, step / 16)
            slope = torch.where(again, finer, slope)
            # What is curvature has shrunk as much. Other outputs of the column are behind the same kink, less visibly.
            kink = (bent & (still > bend / 4)).any(1, keepdim=True)
            errors = torch.where(kink, -1.0, (entries - slope).abs() / scale)
        found.append(torch.stack((errors, slope)))
    return torch.stack(found, -1)


def _slopes(function: Function, point: Tensor, base: Tensor, column: int, step: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, M)`` each: the central difference, and by how much the slopes to both sides differ."""
    move = torch.zeros_like(point)
    move[:, column] = step
    above, below = function(point + move) - base, function(point - move) - base
    right, left = (
        ((point + move) - point)[:, column, None],
        (point - (point - move))[:, column, None],
    )  # x + h is rounded
    return (above - below) / (right + left), (above / right + below / left).abs()


def _unravel(index: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(index), shape))
