"""What a function is made of, learnt from a run on two samples: its parameters, and which of them sit in layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.kernels.parameters import Tape, pulled, read_tape
from nas.jac.kernels.record import Recorder, Use
from nas.jac.kernels.rows import vectorises
from nas.jac.kernels.work import Sizes, Work, rows_are_cheaper
from nas.jac.watch import without_noise


@dataclass
class Layer:
    """Parameters that are used by the same calls.

    Attributes:
        weight: the weight, or None where it is frozen or done another way.
        bias: the same for the bias.
        calls: number of calls.
        reaching: which of them reach the output.
        multiplies: whether the weight is a matrix, and not a factor for each channel or feature.
        size: for one sample, all calls together.
    """

    weight: Tensor | None
    bias: Tensor | None
    calls: int
    reaching: tuple[int, ...]
    multiplies: bool
    size: Sizes

    def uses(self, record: Recorder) -> list[Use]:
        """The calls of this layer in a run.

        Args:
            record: of the run.

        Returns:
            Those that reach the output.

        Raises:
            JacobianError: it was called more or less often.
        """
        own = _calls(record, self.weight, self.bias)
        if len(own) != self.calls:
            rule = f"was called {len(own)} times in one run and {self.calls} times in another, with other samples"
            raise JacobianError("model", "layer", rule, "use method='contraction'")
        return [own[i] for i in self.reaching]

    def as_rows(self, work: Work) -> bool:
        """Whether the weight's Jacobian is made, by counted work; it always is where the weight is no matrix.

        Args:
            work: how often the kernel needs it.

        Returns:
            True for the Jacobian, False for the Grams.
        """
        return not self.multiplies or self.weight is None or rows_are_cheaper(self.size, work)


@dataclass
class Survey:
    """What is known of a function after its first run.

    Attributes:
        layers: parameters whose Jacobian follows from activations and gradients.
        others: all other parameters.
        in_layers: the parameters of ``layers``.
        alone: whether samples have to go one at a time for ``others``, because parameters cannot be replaced, or
            the function cannot be vectorised.
        outputs: output entries of one sample, M.
        elements: about how many numbers the tape holds for one sample.
        output_dtype: of the outputs.
        dtype: of the kernel: what outputs and parameters have in common.
    """

    layers: list[Layer]
    others: list[Tensor]
    in_layers: list[Tensor]
    alone: bool
    outputs: int
    elements: int
    output_dtype: torch.dtype
    dtype: torch.dtype


def survey(fn: Callable[[Tensor], Tensor], x: Tensor, layers: bool = True) -> Survey:
    """Run ``fn`` on two samples and see what it uses, and whether its samples stay apart.

    Where they are kept apart is not read off shapes, which can mislead (as many tokens as samples), but from gradients:
    an output of the first sample has none with respect to what belongs to the second.

    Args:
        fn: guarded function, ``(B, *in)`` to ``(B, M)``.
        x: ``(B, *in)``, of which one or two samples are used.
        layers: whether to look for layers; otherwise all parameters are others.

    Returns:
        What was seen.

    Raises:
        JacobianError: ``fn`` draws random numbers, has no output entry, uses no parameter that requires grad, or
            mixes samples.
    """
    probe = x[:2].clone().requires_grad_()
    with Recorder() as record:
        y = without_noise(fn, probe)
    tape = read_tape(y)
    tape.leaves.pop(id(probe), None)
    parameters = list(tape.leaves.values())
    if y.numel() == 0:
        raise JacobianError("output", tuple(y.shape), "must have at least one entry", "return (B, ...)")
    if not parameters:
        rule = "depends on no parameter that requires grad"
        raise JacobianError("output", tuple(y.shape), rule, "call model.requires_grad_(True) first")
    uses = [use for use in record.uses if use.edge.node in tape.nodes] if layers else []
    apart = _kept_apart(y, probe, uses)
    found = _layers([use for use, good in zip(uses, apart, strict=True) if good], record, tape, len(probe))
    inside = [leaf for layer in found for leaf in (layer.weight, layer.bias) if leaf is not None]
    held = set(map(id, inside))
    others = [leaf for leaf in parameters if id(leaf) not in held]
    return Survey(
        layers=found,
        others=others,
        in_layers=inside,
        alone=bool(others) and not vectorises(fn, others, inside, x[:2]),
        outputs=y[0].numel(),
        elements=record.elements // len(probe),
        output_dtype=y.dtype,
        dtype=_common_type([y, *parameters]),
    )


def _common_type(tensors: Sequence[Tensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _kept_apart(y: Tensor, x: Tensor, uses: Sequence[Use]) -> list[bool]:
    """For each use, whether its rows belong to the samples in their order."""
    if len(x) == 1:
        return [True] * len(uses)
    count = y[0].numel()
    mixed = torch.arange(1, count + 1, dtype=y.dtype, device=y.device).cos().view(y.shape[1:])  # no entry cancels
    proofs = []
    for i in range(2):
        seed = torch.zeros_like(y)
        seed[i] = mixed
        edges = [use.edge for use in uses]
        *gradients, by_x = pulled(y, seed, [*edges, x], keep=True)
        if _belongs(by_x, i) is False:
            rule = "mixes the samples of a batch, so that no sample has a Jacobian of its own"
            raise JacobianError("model", "output", rule, "make each output a function of its own sample")
        proofs.append([_belongs(gradient, i) for gradient in gradients])
    return [_is_proven(use, pair) for use, pair in zip(uses, zip(*proofs, strict=True), strict=True)]


def _belongs(gradient: Tensor | None, sample: int) -> bool | None:
    """Whether a gradient vanishes outside that half of its rows; None where it vanishes everywhere, or is no proof."""
    if gradient is None or len(gradient) % 2:
        return None if gradient is None else False
    halves = [bool(((half != 0) & ~half.isnan()).any()) for half in gradient.chunk(2)]
    return None if not any(halves) else not halves[1 - sample]


def _is_proven(use: Use, proofs: tuple[bool | None, bool | None]) -> bool:
    if all(proofs):
        return True
    # Without gradients (a network that is dead at these samples), only a shape that leaves no choice will do.
    return False not in proofs and use.shape[0] == 2 and (len(use.shape) == 2 or use.channels_first)


def _layers(uses: Sequence[Use], record: Recorder, tape: Tape, batch: int) -> list[Layer]:
    """Group parameters by the calls that use them; leave out those that something else uses, too."""
    calls: dict[int, list[int]] = {}
    roles: dict[int, set[tuple[str, bool, int]]] = {}
    for number, use in enumerate(uses):
        for role, leaf in (("weight", use.weight), ("bias", use.bias)):
            if leaf is not None:
                calls.setdefault(id(leaf), []).append(number)
                kind = (role, use.multiplies, use.arguments.get("groups", 1))
                roles.setdefault(id(leaf), set()).add(kind)
    groups: dict[tuple[int, ...], dict[str, int]] = {}
    for leaf_id, own_calls in calls.items():
        if len(own_calls) == tape.arrivals[leaf_id] and len(roles[leaf_id]) == 1:
            ((role, _, _),) = roles[leaf_id]
            groups.setdefault(tuple(own_calls), {})[role] = leaf_id
    found = []
    for numbers, leaves in groups.items():
        weight, bias = (tape.leaves[leaves[role]] if role in leaves else None for role in ("weight", "bias"))
        calls_of, own = _calls(record, weight, bias), [uses[i] for i in numbers]
        reaching = tuple(i for i, use in enumerate(calls_of) if any(use is one for one in own))
        each = [use.sizes(batch) for use in own]
        size = Sizes(each[0].inputs, each[0].outputs, sum(one.positions for one in each), each[0].groups)
        found.append(Layer(weight, bias, len(calls_of), reaching, own[0].multiplies, size))
    return found


def _calls(record: Recorder, weight: Tensor | None, bias: Tensor | None) -> list[Use]:
    return [use for use in record.uses if use.weight is weight is not None or use.bias is bias is not None]
