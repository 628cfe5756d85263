"""What a function is made of, learnt from a run on two samples: its parameters, and which of them sit in layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from nas.jac.errors import JacobianError
from nas.jac.kernels.record import LAST, Recorder, Sizes, Use, read_tape, vjp
from nas.jac.kernels.replaced import vectorises
from nas.jac.refuse import Function, check_apart, without_noise


@dataclass
class Work:
    """How often features are made (``samples``) and multiplied (``pairs``), for S ``seeds`` or their sum (a trace)."""

    samples: int
    pairs: int
    seeds: int
    summed: bool


def flops_of_rows(size: Sizes, work: Work) -> int:
    """FLOPs (2 x multiply-adds) of the way through the Jacobian."""
    row, entries = work.seeds * size.outputs * size.inputs, 1 if work.summed else work.seeds
    return 2 * row * (work.samples * size.positions + work.pairs * entries)


def flops_of_factors(size: Sizes, work: Work) -> int:
    """FLOPs (2 x multiply-adds) of the way through the Grams of activations and cotangents."""
    t, cotangents, entries = size.positions, work.seeds * size.outputs, 1 if work.summed else work.seeds
    first = t * t * (size.inputs + (cotangents if t > 1 else 0))
    return 2 * work.pairs * (first + cotangents * entries * t)


@dataclass
class Layer:
    """Parameters that are used by the same calls."""

    parameters: dict[str, Tensor]  # "weight", "bias" or both; the other is frozen or done another way
    reaching: list[bool]  # for each call, whether it leads to the output
    size: Sizes  # for one sample, all calls together

    def uses(self, record: Recorder) -> list[Use]:
        """The calls of this layer in a run that reach the output; refused if it was called more or less often."""
        own, known = record.calls[next(iter(self.parameters.values()))], len(self.reaching)
        if len(own) != known:
            rule = f"was called {len(own)} times in one run and {known} times in another, with other samples"
            raise JacobianError("model", "layer", rule, "use method='contraction'")
        return [use for use, reaches in zip(own, self.reaching, strict=True) if reaches]

    def as_rows(self, work: Work) -> bool:
        """Whether its Jacobian is made, by counted work; with groups, whose blocks are small, it always is."""
        return self.size.groups > 1 or flops_of_rows(self.size, work) < flops_of_factors(self.size, work)


@dataclass
class Survey:
    """What is known of a function after its first run."""

    layers: list[Layer]
    others: list[Tensor]  # parameters that are in none of them
    alone: bool  # whether for these samples go one by one: they, or the function, are nothing for torch.func
    units: Tensor  # cotangents of one sample's output, one for each entry, (M, M)
    elements: int  # about how many numbers the tape holds for one sample
    dtype: torch.dtype  # of the kernel: what outputs and parameters have in common


def survey(fn: Function, x: Tensor, layers: bool = True) -> Survey:
    """Run ``fn`` on two samples and see what it uses, in ``layers`` or not; noise and mixed samples are refused."""
    probe = x[:2].clone().requires_grad_()
    with Recorder() as record:
        y = without_noise(fn, probe)
    parameters, nodes = read_tape(y)
    parameters.pop(probe, None)
    if not parameters:
        rule = "depends on no parameter that requires grad"
        raise JacobianError("output", tuple(y.shape), rule, "call model.requires_grad_(True) first")
    calls = dict.fromkeys(use for own in record.calls.values() for use in own if layers)
    uses = [use for use in calls if use.edge.node in nodes and use.shape[0] % len(probe) == 0]
    good = _in_order(y, probe, uses) if len(probe) == 2 else set(uses)
    found = _layers(record, good, parameters, len(probe))
    inside = {leaf for layer in found for leaf in layer.parameters.values()}
    others = [leaf for leaf in parameters if leaf not in inside]
    dtype = reduce(torch.promote_types, [leaf.dtype for leaf in parameters], y.dtype)
    alone = bool(others) and not vectorises(fn, others, x[:2])
    units = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    return Survey(found, others, alone, units, record.elements // len(probe), dtype)


def _in_order(y: Tensor, x: Tensor, uses: list[Use]) -> set[Use]:
    """The calls whose rows belong to the samples in their order.

    Shapes can mislead (as many tokens as samples), but an output of one sample has no cotangent at another's rows.
    """
    halves: list[list[list[bool]]] = []  # for each sample's output, call and half of its rows, whether it has any

    def pulled(seed: Tensor) -> Tensor:
        *cotangents, by_x = vjp(y, seed, [*(use.edge for use in uses), x], keep=True)
        parts = (torch.zeros(2) if g is None else g.nan_to_num() for g in cotangents)
        halves.append([[bool(half.any()) for half in part.chunk(2)] for part in parts])
        return torch.zeros_like(x) if by_x is None else by_x

    check_apart(pulled, y)
    good = set()
    for use, (first, strays), (strays_too, second) in zip(uses, *halves, strict=True):
        # Without cotangents (a network that is dead at these samples), only a shape that leaves no choice will do.
        plain = use.shape[0] == 2 and (len(use.shape) == 2 or use.func not in LAST)
        if not (strays or strays_too) and (plain or (first and second)):
            good.add(use)
    return good


def _layers(record: Recorder, good: set[Use], arrivals: Counter[Tensor], batch: int) -> list[Layer]:
    """Group parameters by the calls that use them; leave out those that something else uses, too."""
    found: dict[tuple[Use, ...], Layer] = {}
    for leaf, every in record.calls.items():
        own = tuple(use for use in every if use in good)
        kinds = {(role, use.size.groups) for use in own for role, one in use.parameters.items() if one is leaf}
        if len(own) == arrivals[leaf] and len(kinds) == 1:
            (role, groups), size = kinds.pop(), own[0].size
            together = Sizes(0, size.outputs, sum(use.size.positions for use in own) // batch, groups)
            layer = found.setdefault(own, Layer({}, [use in good for use in every], together))
            layer.parameters[role] = leaf
            layer.size.inputs += size.inputs if role == "weight" else 1
    return list(found.values())
