"""What a function is made of, learnt from a run on two samples: its parameters, and which of them sit in layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.kernels.record import LAST, Recorder, Sizes, Tape, Use, read_tape, vjp
from nas.jac.kernels.replaced import vectorises
from nas.jac.watch import Function, without_noise


@dataclass
class Work:
    """How often features are made (``samples``) and multiplied (``pairs``), for S ``seeds`` or their sum (a trace)."""

    samples: int
    pairs: int
    seeds: int
    summed: bool


def flops_of_rows(size: Sizes, work: Work) -> int:
    """FLOPs (2 x multiply-adds) of the way through the Jacobian."""
    row = work.seeds * size.outputs * size.inputs
    products = work.pairs * row * (1 if work.summed else work.seeds)
    return 2 * (work.samples * row * size.positions + products)


def flops_of_factors(size: Sizes, work: Work) -> int:
    """FLOPs (2 x multiply-adds) of the way through the Grams of activations and cotangents."""
    t, entries = size.positions, 1 if work.summed else work.seeds
    cotangents = work.seeds * size.outputs
    first = t * t * (size.inputs + (cotangents if t > 1 else 0))
    return 2 * work.pairs * (first + cotangents * entries * t)


def rows_are_cheaper(size: Sizes, work: Work) -> bool:
    """Which way, by counted work."""
    return flops_of_rows(size, work) < flops_of_factors(size, work)


@dataclass
class Layer:
    """Parameters that are used by the same calls."""

    weight: Tensor | None
    bias: Tensor | None
    """None where it is frozen or done another way."""
    calls: int
    reaching: tuple[int, ...]
    """Which of them reach the output."""
    size: Sizes
    """For one sample, all calls together."""

    def uses(self, record: Recorder) -> list[Use]:
        """The calls of this layer in a run that reach the output; refused if it was called more or less often."""
        own = _calls(record, self.weight, self.bias)
        if len(own) != self.calls:
            rule = f"was called {len(own)} times in one run and {self.calls} times in another, with other samples"
            raise JacobianError("model", "layer", rule, "use method='contraction'")
        return [own[i] for i in self.reaching]

    def as_rows(self, work: Work) -> bool:
        """Whether its Jacobian is made, by counted work; with groups, whose blocks are small, it always is."""
        return self.size.groups > 1 or rows_are_cheaper(self.size, work)


@dataclass
class Survey:
    """What is known of a function after its first run."""

    layers: list[Layer]
    in_layers: list[Tensor]
    others: list[Tensor]
    """The parameters in layers, and those that are in none."""
    alone: bool
    """Whether for these samples go one by one: they cannot be replaced, or the function cannot be vectorised."""
    outputs: int
    """Output entries of one sample, M."""
    elements: int
    """About how many numbers the tape holds for one sample."""
    output_dtype: torch.dtype
    dtype: torch.dtype
    """Of the kernel: what outputs and parameters have in common."""


def survey(fn: Function, x: Tensor, layers: bool = True) -> Survey:
    """Run ``fn`` on two samples and see what it uses, in ``layers`` or not, and whether its samples stay apart.

    That is not read off shapes, which can mislead (as many tokens as samples), but from cotangents: an output of the
    first sample has none at what belongs to the second. Refused are random numbers, no output entry, no parameter that
    requires grad, and samples that are mixed.
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
    dtype = reduce(torch.promote_types, [leaf.dtype for leaf in parameters], y.dtype)
    alone = bool(others) and not vectorises(fn, others, inside, x[:2])
    return Survey(found, inside, others, alone, y[0].numel(), record.elements // len(probe), y.dtype, dtype)


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
        *cotangents, by_x = vjp(y, seed, [*(use.edge for use in uses), x], keep=True)
        if _belongs(by_x, i) is False:
            rule = "mixes the samples of a batch, so that no sample has a Jacobian of its own"
            raise JacobianError("model", "output", rule, "make each output a function of its own sample")
        proofs.append([_belongs(cotangent, i) for cotangent in cotangents])
    return [_is_proven(use, pair) for use, pair in zip(uses, zip(*proofs, strict=True), strict=True)]


def _belongs(cotangent: Tensor | None, sample: int) -> bool | None:
    """Whether it vanishes outside that half of its rows; None where it vanishes everywhere, or is no proof."""
    if cotangent is None or len(cotangent) % 2:
        return None if cotangent is None else False
    halves = [bool((half.abs() > 0).any()) for half in cotangent.chunk(2)]  # and NaN is no more than that
    return None if not any(halves) else not halves[1 - sample]


def _is_proven(use: Use, proofs: tuple[bool | None, bool | None]) -> bool:
    if all(proofs):
        return True
    # Without cotangents (a network that is dead at these samples), only a shape that leaves no choice will do.
    return False not in proofs and use.shape[0] == 2 and (len(use.shape) == 2 or use.func not in LAST)


def _layers(uses: Sequence[Use], record: Recorder, tape: Tape, batch: int) -> list[Layer]:
    """Group parameters by the calls that use them; leave out those that something else uses, too."""
    calls: dict[int, list[Use]] = {}
    roles: dict[int, set[tuple[str, int]]] = {}
    for use in uses:
        for role, leaf in (("weight", use.weight), ("bias", use.bias)):
            if leaf is not None:
                calls.setdefault(id(leaf), []).append(use)
                roles.setdefault(id(leaf), set()).add((role, use.size.groups))
    groups: dict[tuple[int, ...], dict[str, Tensor]] = {}
    for key, own in calls.items():
        if len(own) == tape.arrivals[key] and len(roles[key]) == 1:
            ((role, _),) = roles[key]
            groups.setdefault(tuple(map(id, own)), {})[role] = tape.leaves[key]
    found = []
    for numbers, leaves in groups.items():
        weight, bias = leaves.get("weight"), leaves.get("bias")
        every = _calls(record, weight, bias)
        reaching = [i for i, use in enumerate(every) if id(use) in numbers]
        sizes = [every[i].sizes(batch, weight is not None, bias is not None) for i in reaching]
        size = replace(sizes[0], positions=sum(one.positions for one in sizes))
        found.append(Layer(weight, bias, len(every), tuple(reaching), size))
    return found


def _calls(record: Recorder, weight: Tensor | None, bias: Tensor | None) -> list[Use]:
    return [use for use in record.uses if use.weight is weight is not None or use.bias is bias is not None]
