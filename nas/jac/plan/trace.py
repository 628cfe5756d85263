"""Run a network once and keep the derivative of each of its operations: a tape of linear maps.

The network runs as it is written, on a tensor of a class that sees every torch function it meets and looks up the rule
for it, in ``layers``, ``elementwise`` or ``shapes``. So modules, functional calls and plain functions are the same
thing, and a module that is called twice or a residual sum needs no special care.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from nas.jac.errors import NoRuleError
from nas.jac.plan.guard import FORWARDS
from nas.jac.plan.maps import LinearMap


class Node:
    """One value of the network, ``(B, *shape)``, and the values it was made from, each with the derivative in it."""

    __slots__ = ("edges", "value", "viewed")

    def __init__(self, value: Tensor, *edges: tuple[Node, LinearMap]) -> None:
        self.value, self.edges, self.viewed = value, edges, False

    @property
    def shape(self) -> torch.Size:
        """The shape of one sample."""
        return self.value.shape[1:]

    @property
    def width(self) -> int:
        """Number of entries of one sample."""
        return self.value.numel() // self.value.shape[0]


NO_RULE = "has no layerwise rule"
Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
"""The rule for each torch function, by name: it takes nodes where the function takes tensors."""
MODULES: dict[type, Callable[[Any, Node], Node]] = {}
"""Rules for modules whose ``forward`` is one such function; it saves the detour through the tensor class."""
_ASKED = "shape dtype device ndim is_cuda layout size dim ndimension numel nelement __len__ stride is_contiguous"
_MADE = "is_floating_point is_complex get_device zeros_like ones_like new_zeros new_ones new_full new_empty new_tensor"
PLAIN = frozenset([*_ASKED.split(), *_MADE.split()])
"""What may be asked of a tensor without depending on its values."""
NAMES = {"input": "x", "tensors": "x", "other": "y", "axis": "dim", "dims": "dim", "train": "training"}
"""The names under which rules know torch's arguments."""


class Recorded(Tensor):
    """The tensor that a recorded network is given: it carries a node along, and sees every torch function."""

    node: Node
    taped = False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, in_place = _known(func)
        if name in PLAIN:
            if cls is Joined:
                raise no_rule(f"{name}, of which the number of samples may be a part,")
            return func(*map(_value, args), **{key: _value(value) for key, value in (kwargs or {}).items()})
        known = RULES.get(name)
        if known is None:
            raise no_rule(name)
        if not torch.is_grad_enabled():  # apply() has switched it on
            raise no_rule(f"{name} inside an autograd.Function or torch.no_grad()")
        named = {NAMES.get(key, key): _unwrap(value) for key, value in kwargs.items()} if kwargs else {}
        given = [a.node if type(a) is cls else _unwrap(a) for a in args] or [named.pop("x", None)]
        try:
            with torch.set_grad_enabled(cls.taped):
                node = known(*given, **named)
        except (TypeError, AttributeError):
            if type(given[0]) is not Node or Node in map(type, (*given[1:], *named.values())):
                raise no_rule(f"{name} with an argument other than the first that depends on the input") from None
            try:
                inspect.signature(known).bind(*given, **named)
            except TypeError as error:
                raise no_rule(f"{name} with other arguments ({error})") from None
            raise
        if type(node) is list:
            return tuple(cls.of(part) for part in node)
        if node.edges and node.value.dtype is not node.edges[0][0].value.dtype:
            raise no_rule(f"{name} to {node.value.dtype}")
        if not in_place and not named.get("inplace"):
            return cls.of(node)
        own, shell = given[0], args[0] if args else kwargs["input"]
        if type(own) is not Node or (own is not node and (own.viewed or own.value.shape != node.value.shape)):
            raise no_rule(f"{name} in place on a view, or with another shape")
        shell.node = node  # the same tensor with another value
        return shell

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise no_rule(str(func))  # reached by what goes around torch functions alone: vmap, TorchScript

    @classmethod
    def of(cls, node: Node) -> Recorded:
        """A tensor that shows the network the node's value and remembers the node."""
        shell = node.value.as_subclass(cls)
        shell.node = node
        return shell


class Taped(Recorded):
    """The same where an autograd tape is kept."""

    taped = True


class Joined(Recorded):
    """The same where batches are joined to one, of which no function may see how large it is."""


@functools.lru_cache(maxsize=1024)
def _known(func: Any) -> tuple[str, bool]:
    """The name that a function's rule goes by, and whether it works in place."""
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":
        return func.__self__.__name__, False
    in_place = name[-1] == "_" and name[:2] != "__"
    return name[:-1] if in_place else name, in_place


def _value(argument: Any) -> Any:
    return argument.node.value if isinstance(argument, Recorded) else argument


def _unwrap(argument: Any) -> Any:
    if isinstance(argument, Recorded):
        return argument.node
    return [_unwrap(part) for part in argument] if type(argument) in (list, tuple) else argument


def no_rule(name: str) -> NoRuleError:
    """The error for an operation that the layerwise mode cannot do: a torch function, or what about it."""
    return NoRuleError("operation", name, NO_RULE, "use mode='reverse' (few outputs) or mode='forward' (few inputs)")


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the torch functions of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def apply(model: Callable[[Tensor], Tensor], node: Node, joined: bool = False) -> Node:
    """Run ``model`` on a node, its input, and give its output; :func:`no_rule` if it does what has none."""
    known = type(model) in FORWARDS and _runs_forward(model)
    if known and type(model) is nn.Sequential:
        for child in model._modules.values():
            node = apply(child, node, joined)
        return node
    if known and type(model) in MODULES:
        return MODULES[type(model)](model, node)
    kind = Joined if joined else Taped if torch.is_grad_enabled() else Recorded
    with torch.enable_grad():  # what switches it off keeps derivatives to itself, and is refused
        out = model(kind.of(node))
    if not isinstance(out, Recorded):
        found = f"{type(model).__name__}: an output of type {type(out).__name__}"
        raise no_rule(f"{found} that does not depend on the input")
    return out.node


def _runs_forward(module: Any) -> bool:
    """Whether calling a module of a known class is calling the ``forward`` that torch gave it, and nothing else."""
    own = module.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or _global_forward_hooks or _global_forward_pre_hooks
    return not hooks and "forward" not in own and type(module).forward is FORWARDS[type(module)]


def between(start: Node, stop: Node) -> tuple[list[Node], bool]:
    """The nodes between, each after those it was made from, all paths going through ``start``; whether a chain."""
    chain, node = [stop], stop
    while node is not start and len(node.edges) == 1:
        node = node.edges[0][0]
        chain.append(node)
    if node is start:
        return chain[::-1], True
    order, seen, waiting = [start], {start}, [stop]
    while waiting:
        node = waiting[-1]
        missing = [parent for parent, _ in node.edges if parent not in seen]
        if node in seen:
            waiting.pop()
        elif missing:
            waiting += missing
        else:
            seen.add(node)
            order.append(waiting.pop())
    return order, False
