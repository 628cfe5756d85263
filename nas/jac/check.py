"""Is this the Jacobian? Central differences in float64 at columns drawn at random, which tell kinks from curvature."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.jac.errors import JacobianError
from nas.jac.factored import FactoredJacobian
from nas.jac.refuse import Function, check_finite, check_input, check_modes, check_output, check_real

Jacobian = Tensor | FactoredJacobian
EPS = torch.finfo(torch.float64).eps
EXACT, BENT = 1e-6, 2e-5  # shares of the scale: errors, and differences of the slopes to both sides, not looked into


@dataclass(frozen=True)
class CheckResult:
    """What finite differences found: the largest ``error``, relative to its sample's largest derivative, and where.

    ``sample``, ``output`` and ``input`` are indices into the batch, the sample's output and its input; ``expected`` and
    ``found`` the derivative there, in outputs per input, by differences and in the Jacobian given. An ``error`` up to
    ``tolerance`` passes. ``columns`` of a sample's ``inputs`` entries were moved; ``kinks`` entries of the Jacobian are
    at a kink and were not judged.
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
    model_or_fn: Function, x: Tensor, jac: Jacobian, columns: int = 16, seed: int = 0, tolerance: float | None = None
) -> CheckResult:
    """Compare a Jacobian with central finite differences in float64, at random input entries.

    All samples move at once by ``eps ** (1 / 3) * max(|x|, rms)``, with ``rms`` the root mean square of ``x`` or 1
    (Press et al., *Numerical Recipes*, 3rd edition, section 5.7), for two or four forward passes a column; up to
    ``2 * log2(B) + 2`` more look for noise and samples that influence each other. Errors are relative to their sample's
    largest derivative in these columns, or to 1e6 times what rounding does to it. Where slopes differ to both sides,
    also at a step 16 times finer, ``x`` is at a kink (ReLU, ties in max pooling): the sample's entries in that column
    are counted, not judged.

    Args:
        model_or_fn: ``(B, *in) -> (B, *out)``: a module, of which a float64 copy is run, or a function of float64.
        x: ``(B, *in)``, the point at which ``jac`` was computed. A little noise added to it takes kinks away.
        jac: ``(B, *out, *in)`` of any floating-point type, or an object with ``dense()``.
        columns: how many input entries are moved, at most all; a wrong entry in another column is not seen.
        seed: of the generator that draws them.
        tolerance: the largest error that passes; by default the square root of ``jac``'s ``eps``, and at least 1e-6.

    Returns:
        The largest error and where it is.

    Raises:
        JacobianError: the function does not run on float64, gives no batch or another type, mixes samples or draws
            noise; a number is not finite; ``jac`` has another shape; ``columns`` < 1; all entries are at a kink.
    """
    check_input("x", x)
    check_modes(model_or_fn)
    if columns < 1:
        raise JacobianError("columns", columns, "must be at least 1", "use columns=16")
    with torch.no_grad():
        differences = _Differences(model_or_fn, x)
        out, inputs = differences.out, x[0].numel()
        dense = check_real("jac", jac.dense() if hasattr(jac, "dense") else jac, "give the Jacobian itself").detach()
        if dense.shape != (wanted := (*out, *x.shape[1:])):
            rule = f"must be (B, *out, *in) = {wanted}"
            raise JacobianError("jac", tuple(dense.shape), rule, "give the Jacobian of this function at this x")
        check_finite("jac", dense, "the Jacobian", "look for a step that has no derivative at x")
        differences.refuse_coupling()
        drawn = torch.randperm(inputs, generator=torch.Generator().manual_seed(seed))[:columns]
        given = dense.to(x.device).reshape(len(x), -1, inputs)[..., drawn].double()
        largest = given.abs().amax((1, 2)).clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        pairs = [differences.compare(given[..., i], column, largest) for i, column in enumerate(drawn.tolist())]
    errors, slopes, given = (part.reshape(*out, -1) for part in (*torch.stack(pairs, -1), given))
    kinks = int((errors < 0).sum())
    if kinks == errors.numel():
        rule = f"every one of the {errors.numel()} entries looked at is at a kink, where there is no derivative"
        raise JacobianError("x", tuple(x.shape), rule, "add a little noise to x and compute both anew")
    sample, *output, number = worst = tuple((errors == errors.max()).nonzero()[0].tolist())
    entry = tuple(int(i) for i in torch.unravel_index(drawn[number], x.shape[1:]))
    error, expected, found = errors[worst].item(), slopes[worst].item(), given[worst].item()
    tolerance = max(torch.finfo(dense.dtype).eps ** 0.5, EXACT) if tolerance is None else tolerance
    return CheckResult(error, sample, tuple(output), entry, expected, found, tolerance, len(drawn), inputs, kinks)


class _Differences:
    """Central differences of a function, or of a float64 copy of a module, at a point ``(B, N)``."""

    def __init__(self, model_or_fn: Function, x: Tensor) -> None:
        self.name = getattr(model_or_fn, "__name__", type(model_or_fn).__name__)
        try:
            self.call = copy.deepcopy(model_or_fn).double() if isinstance(model_or_fn, nn.Module) else model_or_fn
        except RuntimeError as error:  # it keeps a result of autograd, as the old weight_norm does
            raise self.error("cannot be copied", "pass a function of float64 input", error) from error
        self.shape, self.point = x.shape, x.detach().double().reshape(len(x), -1)
        self.steps = EPS ** (1 / 3) * self.point.abs().clamp_min(self.point.square().mean().sqrt().item() or 1.0)
        self.value = self.run(torch.zeros_like(self.point))

    def error(self, rule: str, remedy: str, cause: RuntimeError | None = None) -> JacobianError:
        rule += " (" + str(cause).strip().partition("\n")[0] + ")" if cause else ""
        return JacobianError("model_or_fn", self.name, rule, remedy)

    def run(self, move: Tensor) -> Tensor:
        """The output a move away, ``(B, M)``, checked."""
        try:
            y = check_output(self.call((self.point + move).view(self.shape)), len(move))
        except RuntimeError as error:
            rule = f"does not run on float64 input {tuple(self.shape)}"
            raise self.error(rule, "pass the module, or close over float64", error) from error
        if y.dtype != torch.float64:
            rule = f"turns float64 input into {y.dtype}, which is too coarse for differences"
            raise self.error(rule, "let it compute in the type of its input")
        check_finite("output", y, "what is given for float64 input", "check at another x")
        self.out = y.shape
        return y.reshape(len(y), -1)

    def refuse_coupling(self) -> None:
        # Any two samples differ in a bit of their indices: moving those with that bit shows if one moves the other.
        noise = torch.randn(self.point.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        move = 200 * self.steps * noise.to(self.point.device)  # by about a thousandth
        numbers = torch.arange(len(move), device=move.device)
        halves = [(numbers >> bit) & 1 == side for bit in range((len(move) - 1).bit_length()) for side in (0, 1)]
        for still in (numbers >= 0, *halves):
            change = (self.run(move.masked_fill(still[:, None], 0)) - self.value).abs().amax(1)
            if changed := numbers[still & (change > 1e-10 * self.value.abs().max())].tolist():
                when = "it is called again with the same input" if still.all() else "other samples alone are moved"
                rule = f"gives something else for sample {changed[0]} when {when}"
                raise self.error(rule, "call model.eval(), let each sample be treated by itself, seed what is drawn")

    def compare(self, entries: Tensor, column: int, largest: Tensor) -> Tensor:
        """Errors of a column's entries as shares of the samples' scales, -1 at kinks, and its slopes: ``(2, B, M)``."""
        step = self.steps[:, column, None]
        slope, bend = self.slopes(column, step)
        seen = EPS / EXACT * self.value.abs().amax(1, keepdim=True) / step  # less is rounding
        scale = slope.abs().amax(1, keepdim=True).maximum(largest).maximum(seen)
        errors, bent = (entries - slope).abs() / scale, bend > BENT * scale
        if (again := bent | (errors > EXACT)).any():
            finer, still = self.slopes(column, step / 16)
            slope = torch.where(again, finer, slope)
            # What is curvature has shrunk as much. Other outputs of the column are behind the same kink, less visibly.
            kink = (bent & (still > bend / 4)).any(1, keepdim=True)
            errors = torch.where(kink, -1.0, (entries - slope).abs() / scale)
        return torch.stack((errors, slope))

    def slopes(self, column: int, step: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, M)`` each: the central difference, and by how much the slopes to both sides differ."""
        move = torch.zeros_like(self.point)
        move[:, [column]] = step
        above, below = self.run(move) - self.value, self.run(-move) - self.value
        return (above - below) / (2 * step), (above + below).abs() / step
