"""Run a network once and keep the derivative of each of its operations: a tape of linear maps.

The network runs as it is written. Its input is a tensor of a class that sees every torch function it meets
(``__torch_function__``) and looks up the rule for it, in ``layers``, ``elementwise`` or ``shapes``; so modules,
functional calls and plain functions are the same thing, and a module that is called twice or a residual sum needs no
special care.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from nas.jac.errors import NoRuleError
from nas.jac.plan.maps import LinearMap


class Node:
    """One value of the network, ``(B, *shape)``, and the values it was made from, each with the derivative in it."""

    __slots__ = ("edges", "value", "viewed")

    def __init__(self, value: Tensor, edges: tuple[tuple[Node, LinearMap], ...] = ()) -> None:
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
PLAIN = {getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_cuda", "layout")}
PLAIN |= {torch.is_floating_point, torch.is_complex, torch.numel, torch.zeros_like, torch.ones_like}
_ASKED = "size dim ndimension numel nelement __len__ is_floating_point is_complex get_device is_contiguous stride"
PLAIN |= {getattr(Tensor, name) for name in f"{_ASKED} new_zeros new_ones new_full new_empty new_tensor".split()}
"""What may be asked of a tensor without depending on its values."""
PLACES = {"input": 0, "tensors": 0, "other": 1}
NAMES = {"axis": "dim", "train": "training", "dims": "dim"}
"""Arguments that torch takes by several names: the place, or the name, under which rules know them."""


class _Recording(threading.local):
    taped = False  # whether the recording that this thread makes keeps an autograd tape


_recording = _Recording()


class Recorded(Tensor):
    """The tensor that a recorded network is given: it carries a node along, and sees every torch function."""

    node: Node

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, in_place, plain = _known(func)
        if plain:
            return func(*map(_value, args), **{key: _value(value) for key, value in (kwargs or {}).items()})
        known = RULES.get(name)
        if known is None:
            raise no_rule(name)
        if not torch.is_grad_enabled():  # apply() has switched it on
            raise no_rule(f"{name} inside an autograd.Function or torch.no_grad()")
        given, named = [a.node if type(a) is Recorded else _unwrap(a) for a in args], {}
        for key, argument in kwargs.items() if kwargs else ():
            if key in PLACES:
                given.insert(PLACES[key], _unwrap(argument))
            else:
                named[NAMES.get(key, key)] = _unwrap(argument)
        try:
            with torch.set_grad_enabled(_recording.taped):
                node = known(*given, **named)
        except TypeError:
            _check_signature(known, name, given, named)
            raise
        if type(node) is list:
            return tuple(map(wrap, node))
        if node.edges and node.value.dtype is not node.edges[0][0].value.dtype:
            raise no_rule(f"{name} to {node.value.dtype}")
        if in_place or named.get("inplace"):
            return _rewritten(args[0] if args else (kwargs or {}).get("input"), node, name)
        return wrap(node)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise no_rule(str(func))  # reached by what goes around torch functions alone: vmap, TorchScript


@functools.lru_cache(maxsize=1024)
def _known(func: Any) -> tuple[str, bool, bool]:
    """The name that a function's rule goes by, whether it works in place, and whether it is in ``PLAIN``."""
    name = getattr(func, "__name__", type(func).__name__)
    in_place = name[-1] == "_" and name[:2] != "__"
    if name == "__get__":
        name = func.__self__.__name__
    return name[:-1] if in_place else name, in_place, func in PLAIN


def _value(argument: Any) -> Any:
    return argument.node.value if isinstance(argument, Recorded) else argument


def _unwrap(argument: Any) -> Any:
    if type(argument) is Recorded:
        return argument.node
    return [_unwrap(part) for part in argument] if type(argument) in (list, tuple) else argument


def _check_signature(known: Rule, name: str, given: list, named: dict[str, Any]) -> None:
    try:
        inspect.signature(known).bind(*given, **named)
    except TypeError as error:
        raise no_rule(f"{name} with other arguments ({error})") from None


def _rewritten(shell: Any, node: Node, name: str) -> Any:
    """The same tensor with another value, as after an operation in place."""
    own = shell.node if isinstance(shell, Recorded) else None
    if own is None or (own is not node and (own.viewed or own.value.shape != node.value.shape)):
        raise no_rule(f"{name} in place on a view, or with another shape")
    shell.node = node
    return shell


def wrap(node: Node) -> Recorded:
    """A tensor that shows the network the node's value and remembers the node."""
    shell = node.value.as_subclass(Recorded)
    shell.node = node
    return shell


def no_rule(name: str) -> NoRuleError:
    """The error for an operation that the layerwise mode cannot do: a torch function, or what about it."""
    return NoRuleError("operation", name, NO_RULE, "use mode='reverse' (few outputs) or mode='forward' (few inputs)")


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the torch functions of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def one(node: Node, value: Tensor, derivative: LinearMap) -> Node:
    """A value that was made from one other."""
    return Node(value, ((node, derivative),))


def constant(name: str, *arguments: object) -> None:
    """Refuse arguments that depend on the input where the rule takes them for constants."""
    if any(isinstance(argument, Node) for argument in arguments):
        raise no_rule(f"{name} with an argument other than the first that depends on the input")


def apply(model: Callable[[Tensor], Tensor], node: Node) -> Node:
    """Run ``model`` on a node, its input, and give its output; :func:`no_rule` if it does what has none."""
    kind = type(model)
    direct = MODULES.get(kind)
    if direct is not None and _runs_forward(model):
        return direct(model, node)
    if kind is nn.Sequential and _runs_forward(model):
        for child in model._modules.values():  # type: ignore[attr-defined]
            node = apply(child, node)
        return node
    before, _recording.taped = _recording.taped, torch.is_grad_enabled()
    try:
        with torch.enable_grad():  # what switches it off keeps derivatives to itself, and is refused
            out = model(wrap(node))
    finally:
        _recording.taped = before
    if not isinstance(out, Recorded):
        raise no_rule(f"{kind.__name__}: an output of type {type(out).__name__} that does not depend on the input")
    return out.node


def _runs_forward(module: Any) -> bool:
    """Whether calling a module is calling the ``forward`` of its class, and nothing else."""
    own = module.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or _global_forward_hooks or _global_forward_pre_hooks
    return not hooks and "forward" not in own


def between(start: Node, stop: Node) -> tuple[list[Node], bool]:
    """The nodes between, each after those it was made from, all paths going through ``start``; whether a chain."""
    chain, node = [stop], stop
    while node is not start and len(node.edges) == 1:
        node = node.edges[0][0]
        chain.append(node)
    if node is start:
        return chain[::-1], True
    order, seen, waiting = [start], {id(start)}, [stop]
    while waiting:
        node = waiting[-1]
        missing = [parent for parent, _ in node.edges if id(parent) not in seen]
        if id(node) in seen:
            waiting.pop()
        elif missing:
            waiting += missing
        else:
            seen.add(id(node))
            order.append(waiting.pop())
    return order, False
