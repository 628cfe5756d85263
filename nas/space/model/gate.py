"""An existing network becomes a supernet: modules that a pattern names become slots."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from inspect import signature

from torch import Tensor, nn

from nas.errors import SpaceError
from nas.nn import GatedModel, InPlace, gated_blocks
from nas.space.model.candidates import Candidate, Old, candidate, name_of
from nas.space.model.once import run_once

NEAREST = 5
"""Names of modules that are shown where a pattern matches none."""


def gate_modules(
    model: nn.Module,
    gated: Mapping[str, Sequence[Candidate]],
    share: bool | Collection[str] = False,
    input_shape: tuple[int, int, int] = (3, 224, 224),
) -> GatedModel:
    """Make a supernet of ``model``: each module that a pattern names becomes a slot with the candidates beside it.

    ``model`` itself is changed and becomes a part of the supernet. It runs once on an image of zeros, which finds the
    order and the shapes of its modules; so does the example::

        supernet = gate_modules(resnet18(weights="DEFAULT"), {"layer*.conv2": ["keep", "conv1", "sep3", "skip"]})
        logits = supernet(x, (0, 1, 2, 0, 3, 0, 1, 0))  # one entry a slot, in the order of the forward pass

    Args:
        model: ``model(x)`` gives logits ``(B, classes)``. It may hold code that cannot be traced.
        gated: names of modules, in which ``*`` stands for any letters and ``?`` for one (``fnmatch``), and for each
            what may stand in their place: ``keep``, which is the module with its weights, ``skip`` and ``none`` where
            it keeps shapes, an operation of :func:`nas.nn.operation`, for a Linear ``linear`` and ``low4`` (of a
            quarter of the rank), or a function that takes the module and gives another.
        share: the modules of a pattern make one slot, not one each: True for all patterns, or these patterns.
        input_shape: of an image, ``(C, H, W)``.

    Raises:
        SpaceError: a pattern names nothing, two name the same module or one inside another; a candidate does not fit;
            the model does not run on such an image, or does not call a module with one tensor.
    """
    if not isinstance(model, nn.Module):
        raise SpaceError("model", model, "must be a torch.nn.Module", "call what makes it, as in resnet18()")
    if not isinstance(gated, Mapping):
        remedy = 'write for example {"layer*.conv2": ["keep", "conv1"]}'
        raise _wrong(str(gated), "must be names of modules with lists of candidates", remedy)
    if gated_blocks(model):
        raise _wrong(type(model).__name__, "has gated blocks already", "gate all modules in one call")
    named = _named(model, gated)
    olds = _run(model, named, input_shape)
    shared = (gated if share else ()) if isinstance(share, bool) else share
    if unknown := next((pattern for pattern in shared if pattern not in gated), None):
        raise SpaceError("space.share", unknown, "is no pattern of space.gated", f"name one of {', '.join(gated)}")
    places: dict[str, int] = {}
    blocks = []
    for name, old in olds.items():  # in the order of the forward pass
        pattern = named[name]
        slot = pattern if pattern in shared else name
        holders = [(h._modules, part) for h in model.modules() for part, m in h._modules.items() if m is old.module]
        choices = [name_of(wanted) for wanted in gated[pattern]]
        branches = [candidate(old, wanted) for wanted in gated[pattern]]
        block = InPlace(branches, choices, slot, places.setdefault(slot, len(places)))
        blocks += [(parts, part, block) for parts, part in holders]
    for parts, part, block in blocks:  # at last, so that a model which is refused is as it was
        parts[part] = block
    return GatedModel(model)


def _named(model: nn.Module, gated: Mapping[str, Sequence[Candidate]]) -> dict[str, str]:
    """The modules that are to be gated by name, and the pattern that names each."""
    names, found = [name for name, _ in model.named_modules() if name], dict[str, str]()
    if not gated:
        convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        last = (convs or ["layer4.1.conv2"])[-1]
        raise _wrong("{}", "names no module", f"write for example {{{last}: [keep, conv1, sep3]}}")
    for pattern, wanted in gated.items():
        if not isinstance(wanted, list | tuple) or not wanted or len({*map(name_of, wanted)}) < len(wanted):
            rule, remedy = "must have a list of candidates, none of them twice", "write for example [keep, conv1, sep3]"
            raise _wrong(pattern, rule, remedy)
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            near = get_close_matches(pattern, names, NEAREST, 0.0)
            raise _wrong(pattern, f"names no module of {type(model).__name__}", f"the nearest are {', '.join(near)}")
        for name in matched:
            if name in found:
                rule = f"names {name}, and so does {found[name]}"
                raise _wrong(pattern, rule, "let one pattern name it")
            found[name] = pattern
    for name in found:
        for outer in (name[:i] for i, letter in enumerate(name) if letter == "."):
            if outer in found:
                rule = f"names {outer}, and {name} lies in it"
                raise _wrong(found[outer], rule, "gate the one or the other, by a pattern that names it alone")
    return found


def _run(model: nn.Module, names: Iterable[str], input_shape: tuple[int, int, int]) -> dict[str, Old]:
    """The modules ``names`` in the order in which an image runs through them, with their shapes."""
    olds, hooks, outputs = dict[str, Old](), [], dict[str, tuple[Tensor, int]]()

    def look(name: str, module: nn.Module, args: tuple, kwargs: dict, y: object) -> None:
        more = _beside(module, args, kwargs)
        if more or not args or not isinstance(args[0], Tensor) or not isinstance(y, Tensor):
            takes, gives = (", ".join(type(v).__name__ for v in values) for values in ((*args, *more), (y,)))
            rule = f"takes {takes} and gives {gives}, where a gate takes one tensor and gives one"
            raise _wrong(name, rule, "gate a module around it or in it")
        beside = len(args) + len(kwargs) > 1
        dtype = args[0].dtype
        olds.setdefault(name, Old(name, module, tuple(args[0].shape), tuple(y.shape), beside=beside, dtype=dtype))
        outputs.setdefault(name, (y, y._version))

    for name in names:
        module = model.get_submodule(name)
        hooks.append(module.register_forward_hook(partial(look, name), with_kwargs=True))
    try:
        run_once(model, input_shape)
    finally:
        for handle in hooks:
            handle.remove()
    if missing := next((name for name in names if name not in olds), None):
        rule = "is not called in a forward pass; its parameters may be used without it"
        raise _wrong(missing, rule, "gate the module that does so")
    written = {name for name, (y, version) in outputs.items() if y._version > version}
    return {name: replace(old, overwritten=name in written) for name, old in olds.items()}


def _beside(module: nn.Module, args: tuple, kwargs: dict) -> list[object]:
    """What ``module`` is called with beside its first argument, but for a None or False that is the default anyway."""
    if len(args) + len(kwargs) == 1:
        return []
    call = signature(module.forward)
    named = [*call.bind(*args, **kwargs).arguments.items()][1:]
    return [v for name, v in named if not ((v is None or v is False) and v is call.parameters[name].default)]


def _wrong(value: str, rule: str, remedy: str) -> SpaceError:
    return SpaceError("space.gated", value, rule, remedy)
