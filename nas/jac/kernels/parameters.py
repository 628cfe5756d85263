"""Which parameters a function uses, found on autograd's tape; and the same function with other values for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from nas.jac.errors import JacobianError


@dataclass
class Tape:
    """What autograd's tape says about an output.

    The tape and not the list of a module's parameters, because a plain function has none, and because parameters that
    a run did not touch are not on it.

    Attributes:
        leaves: the parameters that the output depends on, by ``id``.
        arrivals: how many edges lead to each of them, by ``id``: one for each operation that used it.
        nodes: every operation.
    """

    leaves: dict[int, Tensor]
    arrivals: dict[int, int]
    nodes: set[Node]


def read_tape(y: Tensor) -> Tape:
    """Walk the tape back from ``y``.

    Args:
        y: any tensor; one that requires no grad has an empty tape.

    Returns:
        What was found.

    Raises:
        JacobianError: a parameter is complex.
    """
    tape = Tape({}, {}, set())
    waiting: list[Node | None] = [get_gradient_edge(y).node] if y.requires_grad else []
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)  # what autograd's AccumulateGrad carries
        if leaf is not None:
            if leaf.is_complex():
                raise JacobianError("parameter", leaf.dtype, "must be real", "store real and imaginary parts")
            tape.leaves[id(leaf)] = leaf
            tape.arrivals[id(leaf)] = tape.arrivals.get(id(leaf), 0) + 1
        elif node is not None and node not in tape.nodes:
            tape.nodes.add(node)
            waiting += [child for child, _ in node.next_functions]
    return tape


def tensors_in(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among the arguments of a call, also those inside lists, tuples and dictionaries.

    Args:
        arguments: positional and keyword values.

    Yields:
        Each tensor.
    """
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from tensors_in(argument)
        elif isinstance(argument, dict):
            yield from tensors_in(argument.values())


class Substitution(TorchFunctionMode):
    """While it is active, torch functions see other values in place of some tensors.

    It does for a plain function what ``torch.func.functional_call`` does for a module.

    Args:
        tensors: what is replaced.
        values: what they see, one for each.
    """

    def __init__(self, tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
        super().__init__()
        self._values: Mapping[int, Tensor] = {id(tensor): value for tensor, value in zip(tensors, values, strict=True)}

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = {name: self._replaced(value) for name, value in (kwargs or {}).items()}
        return func(*map(self._replaced, args), **kwargs)

    def _replaced(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return self._values.get(id(argument), argument)
        if type(argument) in (list, tuple):
            return type(argument)(map(self._replaced, argument))
        return argument


def run_with(fn: Callable[[Tensor], Tensor], tensors: Iterable[Tensor], values: Iterable[Tensor], x: Tensor) -> Tensor:
    """``fn(x)`` with ``values`` in place of ``tensors``.

    Args:
        fn: any function of one tensor.
        tensors: parameters.
        values: what stands in for each of them.
        x: its input.

    Returns:
        Its output.
    """
    with Substitution(tensors, values):
        return fn(x)


def pulled(y: Tensor, seed: Tensor, by: Sequence[Tensor | GradientEdge], keep: bool) -> tuple[Tensor | None, ...]:
    """One backward pass.

    Args:
        y: with its tape.
        seed: the gradient by ``y``, of a shape that can be expanded to that of ``y``.
        by: tensors, or places on the tape.
        keep: whether the tape is needed again.

    Returns:
        The gradient by each of them; None by what ``y`` does not depend on.
    """
    # Through a scalar, since grad(y, by, seed) imports sympy on its first call: 30 MB and most of a second.
    scalar = (y * seed).sum()
    return torch.autograd.grad(scalar, by, retain_graph=keep, allow_unused=True)  # type: ignore[arg-type]


def detached(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The values of ``tensors``, sharing their memory.

    Args:
        tensors: any.

    Returns:
        One for each.
    """
    return tuple(torch.Tensor.detach(tensor) for tensor in tensors)
